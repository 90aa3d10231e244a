"""A conversation in the terminal: streamed, the reasoning dimmed, earlier turns remembered."""

from dataclasses import dataclass, field

from rich.console import Console
from rich.text import Text

from thinktune.data.example import Role, Turn
from thinktune.errors import ConfigError
from thinktune.generation.completion import Completion, GenerationConfig, Stop
from thinktune.generation.engine import generate
from thinktune.loading import Model, load_adapted, load_run_model
from thinktune.paths import user_path
from thinktune.settings import parse_settings
from thinktune.tracking import Watcher

CLOSE_TAG = "</think>"


@dataclass(slots=True)
class Conversation:
    """A model and what was said so far."""

    model: Model
    generation: GenerationConfig
    seed: int
    history: list[Turn] = field(default_factory=list)


def open_chat(
    model: str,
    *,
    adapter: str | None,
    temperature: float | None,
    max_new_tokens: int | None,
    seed: int,
    watcher: Watcher | None = None,
) -> Conversation:
    """Load a run's model with its adapter, or a model with or without one."""
    if (user_path(model) / "run.json").is_file():
        if adapter is not None:
            raise ConfigError("--adapter goes with a model; a run has its own adapter")
        loaded, config = load_run_model(model, watcher)
        generation = config.generation
    else:
        generation = GenerationConfig()
        folder = None if adapter is None else user_path(adapter)
        loaded = load_adapted(model, folder, watcher)
    asked = {"temperature": temperature, "max_new_tokens": max_new_tokens}
    changed = {key: value for key, value in asked.items() if value is not None}
    if changed:
        generation = parse_settings(GenerationConfig, generation.model_dump() | changed)
    return Conversation(loaded, generation, seed)


def talk(conversation: Conversation, console: Console, question: str | None = None) -> None:
    """Answer one question, or every line the user types until an empty one."""
    if question is not None:
        reply(conversation, console, question)
        return
    console.print("Ask; an empty line ends the conversation.", style="dim")
    while True:
        try:
            asked = console.input("[bold]> [/bold]").strip()
        except EOFError:
            return
        if not asked:
            return
        reply(conversation, console, asked)


def reply(conversation: Conversation, console: Console, question: str) -> Completion:
    """Stream one answer, and remember the turn."""
    model = conversation.model
    prompt = model.template.render_prompt(question, history=conversation.history)
    written = ""

    def on_text(_: int, piece: str) -> None:
        nonlocal written
        before, written = written, written + piece
        closed_before = CLOSE_TAG in before
        if closed_before or CLOSE_TAG not in written:
            style = "" if closed_before else "dim italic"
            console.print(Text(piece, style=style), end="")
        else:
            cut = written.index(CLOSE_TAG) + len(CLOSE_TAG) - len(before)
            console.print(Text(piece[:cut], style="dim italic"), end="")
            console.print(Text(piece[cut:]), end="")

    completion = generate(
        model.decoder,
        model.tokenizer,
        [prompt],
        conversation.generation,
        stop_token_ids=model.template.stop_token_ids,
        seed=conversation.seed + len(conversation.history),
        on_text=on_text,
    )[0]
    console.print()
    if completion.stop is Stop.TOKEN_LIMIT:
        limit = conversation.generation.max_new_tokens
        console.print(f"(cut at {limit} tokens; --max-new-tokens allows more)", style="yellow")
    parsed = model.template.parse(completion.text)
    said = parsed.answer if parsed.closed else completion.text
    conversation.history += [
        Turn(Role.USER, question),
        Turn(Role.ASSISTANT, said, parsed.reasoning if parsed.closed else ""),
    ]
    return completion
