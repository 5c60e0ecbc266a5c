"""Chat transcripts, to messages and back.

One line of a transcript is one message in the shape chat APIs use. What no field of Message holds goes to
extra["openai"]; together they give the line back, every string byte for byte. JSON objects have no order: lines are
compared with their keys sorted.
"""

import json
import pathlib

from fusewire.v1 import conversation_threads_pb2 as pb

ROOT = pathlib.Path(__file__).resolve().parents[3]
ROLES = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_DEVELOPER,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
NAMES = {role: name for name, role in ROLES.items()}

# Third-party transcripts lie beside the repository where there are any; our own are always used.
FILES = sorted((ROOT.parent / "shared/data/transcripts").glob("*.jsonl"))
FILES += sorted((ROOT / "tests/data/transcripts").glob("*.jsonl"))


def lines(path):
    """The lines of a transcript, keys sorted; only \\n ends one."""
    return [canonical(json.loads(each)) for each in path.read_text("utf-8").removesuffix("\n").split("\n")]


def canonical(value):
    """JSON that is equal when the values are."""
    return json.dumps(value, sort_keys=True)


def messages(path, prefix="", tokens=False):
    """The transcript as messages with ids of their own; tokens: each says how many it takes."""
    found = [message(f"{prefix}{path.stem}-{number}", line) for number, line in enumerate(lines(path), 1)]
    if tokens:
        for each in found:
            each.token_count = max(1, each.ByteSize() // 4)
    return found


def message(message_id, line):
    """One line as a message."""
    source = json.loads(line)
    result = pb.Message(id=message_id, role=ROLES[source.pop("role")])
    content, call_id = source.pop("content"), source.pop("tool_call_id", None)
    if call_id is not None:
        result.parts.add(tool_result=pb.ToolResult(call_id=call_id, text=content))
    else:
        result.parts.add(text=content)
    for call in source.pop("tool_calls", []):
        function = call["function"]
        assert call["type"] == "function" and call.keys() == {"id", "type", "function"}
        result.parts.add(
            tool_call=pb.ToolCall(
                call_id=call["id"], name=function["name"], arguments_json=function["arguments"]
            )
        )
    if source:
        result.extra["openai"] = json.dumps(source)
    return result


def line(stored):
    """The line that a message was made from."""
    result = {"role": NAMES[stored.role]}
    calls = []
    for part in stored.parts:
        match part.WhichOneof("kind"):
            case "text":
                result["content"] = part.text
            case "tool_result":
                result["content"] = part.tool_result.text
                result["tool_call_id"] = part.tool_result.call_id
            case "tool_call":
                call = part.tool_call
                function = {"arguments": call.arguments_json, "name": call.name}
                calls.append({"function": function, "id": call.call_id, "type": "function"})
            case other:
                raise AssertionError(f"a transcript has no {other}")
    if calls:
        result["tool_calls"] = calls
    result |= json.loads(stored.extra.get("openai", "{}"))
    return canonical(result)


def groups(stored):
    """Splits messages into what a context keeps or leaves as one: a message with calls through its last result.

    A result belongs to the nearest earlier unanswered call with its id. Messages between a call and its last result
    are in the group too. System messages belong to none.
    """
    owner, unanswered, last = {}, [], {}
    for index, each in enumerate(stored):
        for part in each.parts:
            if part.WhichOneof("kind") == "tool_call":
                unanswered.append((part.tool_call.call_id, index))
            elif part.WhichOneof("kind") == "tool_result":
                matching = [call for call in unanswered if call[0] == part.tool_result.call_id]
                if matching:
                    unanswered.remove(matching[-1])
                    owner[index] = matching[-1][1]
                    last[matching[-1][1]] = index
    result, end = [], -1
    for index, each in enumerate(stored):
        if each.role in (pb.ROLE_SYSTEM, pb.ROLE_DEVELOPER):
            continue
        if index > end:
            result.append([])
        result[-1].append(each)
        end = max(end, last.get(index, index))
    return result
