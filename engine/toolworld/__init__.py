"""A simulated world of tools with its users and its judge, shared by tool-use synthesis, RL and evaluation.

`load_tools` returns the tool specs, `World` is the stateful simulator, `run_episode` lets any agent play a `Task`
in it, `judge` scores the outcome by the rubric, and `TemplatePolicy` is an agent that knows the plan.
"""

from engine.toolworld.episode import run_episode
from engine.toolworld.judge import Verdict, judge
from engine.toolworld.messages import AgentFn, Message
from engine.toolworld.policy import DEFECTS, TemplatePolicy
from engine.toolworld.specs import ToolSpec, load_tools
from engine.toolworld.tasks import Checkpoint, Goal, Step, Task
from engine.toolworld.user import Persona, UserSimulator, load_personas, persona
from engine.toolworld.validate import validate_call
from engine.toolworld.world import FaultRates, ToolResult, World

__all__ = [
    "DEFECTS",
    "AgentFn",
    "Checkpoint",
    "FaultRates",
    "Goal",
    "Message",
    "Persona",
    "Step",
    "Task",
    "TemplatePolicy",
    "ToolResult",
    "ToolSpec",
    "UserSimulator",
    "Verdict",
    "World",
    "judge",
    "load_personas",
    "load_tools",
    "persona",
    "run_episode",
    "validate_call",
]
