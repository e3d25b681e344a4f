"""Play one episode: user, agent and world talk until the user is served or the turns run out."""

from engine.keyed import keyed_random
from engine.toolworld.judge import Verdict, judge
from engine.toolworld.messages import AgentFn, Message, calls_of, compact, parsed_arguments, tool_message
from engine.toolworld.tasks import Task
from engine.toolworld.user import Persona, UserSimulator, load_personas
from engine.toolworld.world import FaultRates, World


def run_episode(
    task: Task, agent_fn: AgentFn, seed: int, who: Persona | None = None, faults: FaultRates | None = None
) -> tuple[list[Message], Verdict]:
    """Play `task` with `agent_fn`; return the messages and the judge's verdict.

    `agent_fn(messages, tools)` returns the next assistant message in OpenAI's format, arguments as a JSON string; it
    may write anything there: a bad call is answered with an error. `seed` is the key of the faults, and of the persona
    when `who` is None. Without `faults` the world never fails by chance.
    """
    if who is None:
        personas = list(load_personas().values())
        who = keyed_random(seed, "persona", task.id).choice(personas)
    world = World(task.domain, task.world_seed, faults, noise_seed=seed)
    user = UserSimulator(task, who)
    tools = task.openai_tools()
    messages: list[Message] = [
        {"role": "system", "content": task.system_prompt},
        {"role": "user", "content": user.first()},
    ]
    for _ in range(task.max_turns):
        message = agent_fn(list(messages), tools)
        messages.append(message)
        if calls := calls_of(message):
            messages += [tool_message(call, answer(world, task, call)) for call in calls]
            continue
        reply = user.reply(str(message.get("content") or ""))
        if reply is None:
            break
        messages.append({"role": "user", "content": reply})
    return messages, judge(task, world, messages)


def answer(world: World, task: Task, call: dict[str, object]) -> str:
    """Return the tool simulator's answer to `call`; a call of a tool that the agent lacks does not reach the world."""
    function = call["function"]
    assert isinstance(function, dict)
    if function["name"] not in task.tools:
        return compact({"error": "no such tool"})
    arguments = parsed_arguments(call)
    if arguments is None:
        return compact({"error": "arguments are not JSON"})
    return world.call(function["name"], arguments).text()
