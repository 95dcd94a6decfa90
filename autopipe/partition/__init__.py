"""Where to cut: the exact min-max split of a cost graph, with a certificate. Never loads torch."""

from autopipe.partition.baselines import by_parameters, uniform_layers
from autopipe.partition.compiled import compile_problem
from autopipe.partition.known import Known
from autopipe.partition.objective import MemoryRule, Objective, Rules
from autopipe.partition.problem import Problem
from autopipe.partition.replicas import Replicas
from autopipe.partition.solver import BUDGET, solve

__all__ = [
    "BUDGET",
    "Known",
    "MemoryRule",
    "Objective",
    "Problem",
    "Replicas",
    "Rules",
    "by_parameters",
    "compile_problem",
    "solve",
    "uniform_layers",
]
