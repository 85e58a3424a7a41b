"""The simulated MLRM: recorded traces replayed on vLLM 0.32's wire, for demo, tests and benchmarks.

Quirks of the real server that a guard must live with are kept, each where it is coded.
"""

from gateway.simulate.options import SimulatorOptions
from gateway.simulate.server import run_simulator, simulator
from gateway.simulate.traces import DEMO_TRACES, load_traces

__all__ = ["DEMO_TRACES", "SimulatorOptions", "load_traces", "run_simulator", "simulator"]
