"""`lam-jax chat` at a terminal or fed by a script: lines are questions, or commands that begin with a slash."""

import dataclasses
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lam_jax.agents.chat import Chat
from lam_jax.agents.chat_turns import ChatError, Controls, Turn
from lam_jax.agents.load import load
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.run_folder import first_of, is_run_folder
from lam_jax.data.schemas import DataError
from lam_jax.errors import LamJaxError
from lam_jax.models.decoding import ImageError, read_upright
from lam_jax.rollout.sampling import SamplingConfig
from lam_jax.train.spaces import SPACES

BESIDE = 100  # columns from which two agents' answers stand side by side
HELP = """\
A line is a question. Commands:
  /image FILE       a picture for the next question; again for several
  /force C          take code C for every token         /hold C N   for the first N tokens only
  /forbid C         never take code C                   /bias C X   add X to code C's logit
  /clear            the agent chooses freely again      /controls   what is set
  /codes            the code behind each token of the last answer
  /branch T         answer again: the same up to token T, anew from there on
  /replay [FILE]    answer again with the same codes, or with those of the last answer in a saved conversation
  /undo             take the last turn back
  /set NAME X       temperature, top_k, top_p, length or seed
  /save FILE        write the conversation as JSON       /load FILE  go on with a saved one
  /help             this                                 /quit       end (also Ctrl-D)
Ctrl-C ends an answer. A question that begins with a slash: write two."""
# Of rich's 256 colours, those that are readable on black and on white.
_COLOURS = (160, 166, 136, 64, 29, 31, 62, 91, 133, 125, 172, 100, 35, 38, 68, 98)


class Quit(Exception):
    """The conversation ends."""


class Terminal:
    """Reads lines, answers, prints.

    Args:
        chats: the agent, and one that answers beside it, by the names that are shown.
        console: where it prints.
        images: pictures of the first question.
    """

    def __init__(self, chats: dict[str, Chat], console: Console, images: tuple[Path, ...] = ()):
        self.chats, self.console, self.images = chats, console, list(images)
        self.name, self.chat = next(iter(chats.items()))
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "image": self._image,
            "force": self._force,
            "hold": self._hold,
            "forbid": self._forbid,
            "bias": self._bias,
            "clear": self._clear,
            "controls": self._show_controls,
            "codes": self._codes,
            "branch": self._branch,
            "replay": self._replay,
            "undo": self._undo,
            "set": self._set,
            "save": self._save,
            "load": self._load,
            "help": lambda words: self._say(HELP),
            "quit": self._quit,
        }

    def run(self, lines: Iterator[str]) -> bool:
        """Takes every line until /quit or the end; whether all of them could be done."""
        whole = True
        for line in lines:
            if not line.strip():
                continue
            try:
                self.take(line.strip())
            except Quit:
                break
            except (LamJaxError, OSError) as error:
                whole = False
                self.console.print(f"! {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        return whole

    def take(self, line: str) -> None:
        """Does what one line says.

        Raises:
            Quit: it said so.
            LamJaxError, OSError: it could not be done; the conversation is as before.
        """
        if not line.startswith("/") or line.startswith("//"):
            return self._ask(line.removeprefix("/") if line.startswith("//") else line)
        name, *words = line[1:].split()
        command = self._commands.get(name)
        if command is None:
            raise ChatError(f"There is no command /{name}; /help lists them.")
        return command(words)

    def _ask(self, question: str) -> None:
        # Before anything is answered: of two agents neither may be a turn ahead.
        images = [picture.read_bytes() for picture in self.images]
        for chat in self.chats.values():
            if chat.codes is not None:
                self.chat.controls.check(chat.codes)
        for chat in self.chats.values():
            chat.controls = self.chat.controls if chat.codes is not None else Controls()
        answers = {
            name: lambda on_piece, c=chat: c.ask(question, images, on_piece=on_piece)
            for name, chat in self.chats.items()
        }
        try:
            if len(answers) > 1 and self.console.width >= BESIDE:
                self._beside(answers)
            else:
                for name, chat in self.chats.items():
                    self._answer(name, chat, answers[name])
        except (DataError, ImageError) as error:  # of the pictures: the next question is to be possible
            if not self.images:
                raise
            self.images = []
            raise ChatError(f"{str(error).rstrip('.')}. The pictures of this question were dropped.") from error
        self.images = []

    def _answer(self, name: str, chat: Chat, answer: Callable[..., Turn]) -> None:
        if len(self.chats) > 1:
            self._say(f"[{name}]")

        def piece(text: str, action: int) -> None:
            self.console.print(Text(printable(text), style=_colour(chat, action)), end="", soft_wrap=True)

        try:
            turn = answer(piece)
        finally:
            self._say("")
        if note := _note(turn):
            self._say(note)

    def _beside(self, answers: dict[str, Callable[..., Turn]]) -> None:
        """Two agents' answers in columns: at a terminal each token as it is drawn, else both when they are whole."""
        texts = {name: Text() for name in answers}

        def columns() -> Table:
            table = Table.grid(expand=True, padding=(0, 3, 0, 0))
            for _ in texts:
                table.add_column(ratio=1, overflow="fold")
            table.add_row(*(Text(f"[{name}]") for name in texts))
            table.add_row(*texts.values())
            return table

        live = Live(columns(), console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        with live:
            for name, answer in answers.items():
                chat, text = self.chats[name], texts[name]

                def piece(new: str, action: int, chat: Chat = chat, text: Text = text) -> None:
                    text.append(printable(new), style=_colour(chat, action))
                    live.update(columns(), refresh=self.console.is_terminal)

                turn = answer(piece)
                if note := _note(turn):
                    text.append(f"\n{note}")
                live.update(columns(), refresh=self.console.is_terminal)
        if not self.console.is_terminal:
            self.console.line()  # which rich leaves out there

    def _image(self, words: list[str]) -> None:
        path = Path(" ".join(words)).expanduser()
        if not words or not path.is_file():
            raise ChatError(f"/image: found {str(path) if words else 'nothing'!r}, expected the file of a picture.")
        require_picture(path)
        self.images.append(path)

    def _controlled(self, **changes: object) -> None:
        controls = dataclasses.replace(self.chat.controls, **changes)  # pyright: ignore[reportArgumentType]
        controls.check(self.chat.require_codes())
        self.chat.controls = controls

    def _force(self, words: list[str]) -> None:
        (code,) = self._numbers("/force C", words, 1)
        self._controlled(held=(code, None))

    def _hold(self, words: list[str]) -> None:
        code, count = self._numbers("/hold C N", words, 2)
        self._controlled(held=(code, count))

    def _forbid(self, words: list[str]) -> None:
        (code,) = self._numbers("/forbid C", words, 1)
        self._controlled(forbidden=tuple(dict.fromkeys((*self.chat.controls.forbidden, code))))

    def _bias(self, words: list[str]) -> None:
        (code,) = self._numbers("/bias C X", words[:1], 1)
        value = _number("/bias C X", words[1] if len(words) == 2 else "", float)
        self._controlled(bias={**self.chat.controls.bias, code: value})

    def _clear(self, words: list[str]) -> None:
        self.chat.controls = Controls()

    def _show_controls(self, words: list[str]) -> None:
        controls = self.chat.controls
        held = controls.held
        lines = [f"bias of code {code}: {value:+g}" for code, value in controls.bias.items()]
        lines += [f"code {code} is forbidden" for code in controls.forbidden]
        if held:
            lines.append(f"code {held[0]} is taken for {'every token' if held[1] is None else f'{held[1]} tokens'}")
        self._say("\n".join(lines) or "The agent chooses freely.")

    def _codes(self, words: list[str]) -> None:
        self.chat.require_codes()
        if not self.chat.turns:
            raise ChatError("Nothing was answered yet.")
        answer, tokenizer = self.chat.turns[-1].answer, self.chat.agent.tokenizer
        pairs = [
            Text(f"{code}:{printable(tokenizer.decode([token]))}", style=_colour(self.chat, code))
            for token, code in zip(answer.tokens, answer.actions)
        ]
        self.console.print(Text(" ").join(pairs), soft_wrap=True)

    def _branch(self, words: list[str]) -> None:
        (at,) = self._numbers("/branch T", words, 1)
        self._answer(self.name, self.chat, lambda on_piece: self.chat.branch(at, on_piece=on_piece))

    def _replay(self, words: list[str]) -> None:
        recorded = None
        if words:
            saved = Chat.load(self.chat.agent, Path(" ".join(words)).expanduser())
            if not saved.turns:
                raise ChatError(f"/replay: {' '.join(words)} holds no answer.")
            recorded = saved.turns[-1]
        self._answer(self.name, self.chat, lambda on_piece: self.chat.replay(recorded, on_piece=on_piece))

    def _undo(self, words: list[str]) -> None:
        for chat in self.chats.values():
            chat.undo()

    def _set(self, words: list[str]) -> None:
        usage = "/set temperature|top_k|top_p|length|seed X"
        if len(words) != 2:
            raise ChatError(f"{usage}: found {len(words)} words, expected 2.")
        name, text = words
        for chat in self.chats.values():
            if name in ("length", "seed"):
                value = _number(usage, text, int)
                if value < (1 if name == "length" else 0):
                    raise ChatError(f"{usage}: found {name} {value}, expected at least {1 if name == 'length' else 0}.")
                setattr(chat, name, value)
            elif name in ("temperature", "top_k", "top_p"):
                value = _number(usage, text, int if name == "top_k" else float)
                try:
                    chat.sampling = dataclasses.replace(chat.sampling, **{name: value})
                except ValueError as error:
                    raise ChatError(f"{usage}: {error}.") from error
            else:
                raise ChatError(f"{usage}: there is no setting {name!r}.")

    def _save(self, words: list[str]) -> None:
        if not words:
            raise ChatError("/save FILE: name a file.")
        self.chat.save(Path(" ".join(words)).expanduser())

    def _load(self, words: list[str]) -> None:
        if len(self.chats) > 1:
            raise ChatError("/load: leave out --beside.")
        self.chat = self.chats[self.name] = Chat.load(self.chat.agent, Path(" ".join(words)).expanduser())
        self._say(f"{len(self.chat.turns)} turns")

    def _quit(self, words: list[str]) -> None:
        raise Quit

    def _numbers(self, usage: str, words: list[str], count: int) -> list[int]:
        if len(words) != count:
            raise ChatError(f"{usage}: found {len(words)} words, expected {count}.")
        return [int(_number(usage, word, int)) for word in words]

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _number(usage: str, word: str, kind: Callable[[str], int | float]):
    try:
        return kind(word)
    except ValueError as error:
        raise ChatError(f"{usage}: found {word!r}, expected a number.") from error


def require_picture(path: Path) -> None:
    """Refuses a file that is no picture, before a question waits for it.

    Raises:
        ChatError: it says why.
    """
    try:
        read_upright(path.read_bytes(), str(path))
    except (ImageError, OSError) as error:
        raise ChatError(
            f"{path} cannot be read as a picture ({error}); expected PNG, JPEG, WebP or the like."
        ) from error


def printable(text: str) -> str:
    """Text that a model wrote without what a terminal would obey: control characters but line ends and tabs."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def _colour(chat: Chat, action: int) -> str:
    return f"color({_COLOURS[action % len(_COLOURS)]})" if chat.codes is not None else ""


def _note(turn: Turn) -> str:
    """What is said below an answer that did not end by itself."""
    if turn.stopped:
        return "(stopped)"
    return "" if turn.answer.finished else f"(cut at {len(turn.answer.tokens)} tokens; /set length N allows more)"


def open_agent(path: Path, task: str | None = None, space: str | None = None) -> LoadedAgent:
    """An agent to talk with: of a run with several tasks or spaces, if none is named, see `first_of`."""
    if is_run_folder(path):
        names = first_of(path)
        task, space = task or names[0], space or names[1]
    return load(path, task=task, space=space)


def open_beside(path: Path, name: str, task: str | None) -> LoadedAgent:
    """Another agent: a folder, or the name of another action space of the run `path`."""
    return open_agent(path, task, name) if name in SPACES else open_agent(Path(name))


def sampling_of(agent: LoadedAgent, **changes: float | None) -> SamplingConfig:
    """The agent's own sampling with what is not None changed.

    Raises:
        ValueError: such a value is not possible.
    """
    return dataclasses.replace(agent.settings.sampling, **{k: v for k, v in changes.items() if v is not None})


def lines_of(console: Console) -> Iterator[str]:
    """Lines of the terminal, each asked for; or of standard input, each shown."""
    if sys.stdin.isatty():
        while True:
            try:
                yield input("> ")
            except EOFError:
                console.print()
                return
            except KeyboardInterrupt:
                console.print("\n/quit or Ctrl-D ends.", highlight=False)
    else:
        for line in sys.stdin:
            if line.strip():
                console.print(f"> {line.strip()}", highlight=False, markup=False, soft_wrap=True)
            yield line
