"""A conversation with an agent: turns, what its actions are held to, and everything needed to say it again."""

import json
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lam_jax.agents.chat_turns import (
    ChatError,
    Controls,
    Turn,
    state_as_json,
    state_from_json,
    turn_as_json,
    turn_from_json,
)
from lam_jax.agents.loaded import LoadedAgent
from lam_jax.agents.prompts import Picture, picture_bytes
from lam_jax.data.schemas import Example, Message, Where
from lam_jax.evaluation.generate import Answer, generate
from lam_jax.formats.atomic import whole
from lam_jax.parallel import mesh_of
from lam_jax.rollout.engine import RolloutConfig
from lam_jax.rollout.run import prepared
from lam_jax.rollout.sampling import NEVER, SamplingConfig
from lam_jax.rollout.steering import FREE, SteeredActions
from lam_jax.values import ValueFormError

FORMAT, VERSION = "lam_jax chat", 1
_DONE = (-1, -1)
# Text of the newest token and its action (a code in the latent space).
OnPiece = Callable[[str, int], None]


class Chat:
    """A conversation; each question is answered with all turns before it in the prompt.

    The prompt is read anew for every answer (nothing is cached between turns), and what is longer than the agent's
    longest prompt is cut as in `generate`. Without controls the first answer is that of `LoadedAgent.answer` with the
    same seed.

    Attributes:
        agent: who answers.
        system: text of a system message; None: what the chat template says.
        sampling: how actions are drawn; may be changed between turns.
        length: most tokens of an answer.
        seed: of the next answer; it goes up by one with each.
        controls: of the next answers; may be changed between turns. None of it compiles anything.
        turns: so far.
    """

    def __init__(
        self,
        agent: LoadedAgent,
        *,
        system: str | None = None,
        sampling: SamplingConfig | None = None,
        length: int | None = None,
        seed: int = 0,
    ):
        self.agent, self.system = agent, system
        self.sampling = sampling or agent.settings.sampling
        self.length = agent.settings.answer_length if length is None else length
        self.seed, self.controls = seed, Controls()
        self.turns: list[Turn] = []
        self._space = prepared(agent.actions)
        mesh = mesh_of(self._space)
        if mesh is not None and mesh.size > 1:
            raise ChatError(f"{agent.path} lies on {mesh.size} devices; a conversation needs it on one.")
        self._listener = _Listener()

    @property
    def codes(self) -> int | None:
        """K, the number of codes; None in the token space."""
        return self.agent.agent.latent.config.codes if self.agent.settings.action_space.coded else None

    def require_codes(self) -> int:
        """K.

        Raises:
            ChatError: the agent is one of the token space.
        """
        if self.codes is None:
            raise ChatError(f"{self.agent.path} is an agent of the token space: it has no codes to control.")
        return self.codes

    def ask(
        self,
        question: str,
        images: Sequence[Picture] = (),
        *,
        on_piece: OnPiece | None = None,
        prefix: Sequence[int] = (),
    ) -> Turn:
        """Answers, and adds the turn.

        Args:
            question: text; tags and special tokens in it are text.
            images: pictures that stand before it: paths, bytes of files or PIL images.
            on_piece: told each token's text and action as it is drawn. An answer that Ctrl-C interrupts ends there,
                is kept as far as it came, and `Turn.stopped` says so.
            prefix: first actions of the answer, as recorded in another turn; whatever controls say.

        Raises:
            ChatError: no question, controls or a prefix that the agent cannot follow.
            DataError: a picture that cannot be read, or pictures longer than the longest prompt.
        """
        if not question.strip() and not images:
            raise ChatError("Found no question and no picture; expected one of them.")
        where = Where(f"turn {len(self.turns) + 1}")
        sources = tuple(picture_bytes(picture, where, index) for index, picture in enumerate(images))
        turn = self._answered(question, sources, self.seed, self.controls, tuple(prefix), on_piece)
        self.turns.append(turn)
        self.seed += 1
        return turn

    def branch(self, at: int, *, on_piece: OnPiece | None = None) -> Turn:
        """Answers the last question again: the same up to token `at`, from there on anew under the present controls.

        Raises:
            ChatError: nothing was answered yet, or the answer has no such token.
        """
        last = self._last()
        if not 0 <= at <= len(last.answer.actions):
            raise ChatError(f"The answer has {len(last.answer.actions)} tokens; found {at}, expected 0 to as many.")
        return self._again(last, tuple(last.answer.actions[:at]), self.seed, self.controls, on_piece)

    def replay(self, recorded: Turn | Sequence[int] | None = None, *, on_piece: OnPiece | None = None) -> Turn:
        """Answers the last question with a given sequence of actions, by default its own: then the tokens are the same.

        The answer ends with the sequence, or before where it comes to an end of its own.

        Args:
            recorded: the actions; or a turn, whose seed and sampling are taken too: after the same question its tokens
                come again, also where they were drawn under their codes (`HybridSampling`).
            on_piece: as of `ask`.

        Raises:
            ChatError: nothing was answered yet, the sequence is empty or longer than `length`, or holds something that
                is no action.
        """
        last = self._last()
        like = recorded if isinstance(recorded, Turn) else last
        prefix = tuple(like.answer.actions if recorded is None or isinstance(recorded, Turn) else recorded)
        if not 0 < len(prefix) <= self.length:
            raise ChatError(
                f"The sequence has {len(prefix)} actions, expected 1 to {self.length}, the most of an answer."
            )
        return self._again(last, prefix, like.seed, Controls(), on_piece, len(prefix), like.sampling)

    def undo(self) -> Turn:
        """Takes the last turn back.

        Raises:
            ChatError: there is none.
        """
        self._last()
        return self.turns.pop()

    def _again(
        self,
        last: Turn,
        prefix: tuple[int, ...],
        seed: int,
        controls: Controls,
        on_piece: OnPiece | None,
        most: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Turn:
        self.turns.pop()
        try:
            turn = self._answered(last.question, last.images, seed, controls, prefix, on_piece, most, sampling)
        except BaseException:
            self.turns.append(last)
            raise
        self.turns.append(turn)
        self.seed = max(self.seed, seed + 1)
        return turn

    def _last(self) -> Turn:
        if not self.turns:
            raise ChatError("Nothing was answered yet.")
        return self.turns[-1]

    def _answered(
        self,
        question: str,
        images: tuple[bytes, ...],
        seed: int,
        controls: Controls,
        prefix: tuple[int, ...],
        on_piece: OnPiece | None,
        most: int | None = None,
        sampling: SamplingConfig | None = None,
    ) -> Turn:
        bias, plan = self._inputs(controls, prefix)
        example = self._example(question, images)
        sampling = sampling or self.sampling
        config = RolloutConfig(1, self.length, sampling)

        def run() -> Answer:
            space = SteeredActions(self._space, bias, plan, self._listener)
            key = jax.random.key(seed)
            prompts, tokenizer = self.agent.prompts, self.agent.tokenizer
            return generate(space, [example], prompts, tokenizer, config, key, 1)[0].answers[0]

        most = self.length if most is None else most
        answer, stopped = self._listener.listen(run, self._pieces(on_piece, most))
        if stopped is not None and stopped < min(most, len(answer.tokens)):
            answer = self._cut(answer, stopped)
        else:
            stopped = None
            answer = self._cut(answer, most) if most < len(answer.tokens) else answer
        return Turn(question, images, answer, stopped is not None, seed, sampling, controls, prefix)

    def _cut(self, answer: Answer, tokens: int) -> Answer:
        """Its first tokens; none of them ends it."""
        kept = answer.tokens[:tokens]
        text = self.agent.tokenizer.decode(kept, skip_special_tokens=True)
        return Answer(text, kept, answer.actions[:tokens], answer.logps[:tokens], finished=False)

    def _inputs(self, controls: Controls, prefix: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
        actions = self.codes or self.agent.agent.backbone.config.text.vocab_size
        if controls:
            controls.check(self.require_codes())
        if wrong := [action for action in prefix if not 0 <= action < actions]:
            raise ChatError(f"{wrong[0]} is no action of this agent; expected numbers from 0 to {actions - 1}.")
        bias = np.zeros(actions, np.float32)
        for code, value in controls.bias.items():
            bias[code] = value
        bias[list(controls.forbidden)] = NEVER
        plan = np.full(self.length, FREE, np.int32)
        if controls.held:
            plan[: controls.held[1]] = controls.held[0]
        plan[: len(prefix)] = prefix[: self.length]
        return jnp.asarray(bias)[None], jnp.asarray(plan)

    def _example(self, question: str, images: tuple[bytes, ...]) -> Example:
        messages: list[Message] = [] if self.system is None else [Message(role="system", content=self.system)]
        pictures: list[bytes] = []
        places: list[tuple[int, int]] = []
        for said, shown, answer in [
            *((t.question, t.images, t.answer.text) for t in self.turns),
            (question, images, None),
        ]:
            pictures += shown
            places += [(len(messages), 0)] * len(shown)
            messages.append(Message(role="user", content=said))
            if answer is not None:
                messages.append(Message(role="assistant", content=answer))
        name = f"turn {len(self.turns) + 1}"
        return Example(name, tuple(messages), tuple(pictures), where=Where(name), places=tuple(places))

    def _pieces(self, on_piece: OnPiece | None, most: int) -> Callable[[int, int], None]:
        ends, tokenizer = self.agent.agent.backbone.config.eos_ids, self.agent.tokenizer
        tokens: list[int] = []
        shown, ended = "", on_piece is None

        def piece(token: int, action: int) -> None:
            nonlocal shown, ended
            # The program looks only now and then whether the answer has ended.
            ended = ended or token in ends or len(tokens) == most
            if ended or on_piece is None:
                return
            tokens.append(token)
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            # Half a character is held back until its other bytes come.
            new = "" if text.endswith("\ufffd") or not text.startswith(shown) else text[len(shown) :]
            shown += new
            on_piece(new, action)

        return piece

    def save(self, path: str | Path) -> None:
        """Writes the conversation as JSON, pictures included, whole or not at all."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "agent": str(self.agent.path),
            "space": self.agent.space,
            "system": self.system,
            "length": self.length,
            **state_as_json(self.seed, self.sampling, self.controls),
            "turns": [turn_as_json(turn) for turn in self.turns],
        }
        with whole(path) as new:
            new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, agent: LoadedAgent, path: str | Path) -> "Chat":
        """A saved conversation, to be gone on with by `agent`.

        Raises:
            ChatError: not such a file, or one of another action space.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if (found := (content["format"], content["version"])) != (FORMAT, VERSION):
                raise ChatError(f"{path}: found format {found}, expected {(FORMAT, VERSION)}.")
            if content["space"] != agent.space:
                raise ChatError(f"{path} was led in the {content['space']} space; {agent.path} acts in {agent.space}.")
            turns = [turn_from_json(turn) for turn in content["turns"]]
            seed, sampling, controls = state_from_json(content)
            chat = cls(agent, system=content["system"], sampling=sampling, length=content["length"], seed=seed)
            chat.controls = controls
        except OSError as error:
            raise ChatError(f"{path}: {error.strerror}. Name a file that `/save` wrote.") from error
        except (ValueError, KeyError, TypeError, ValueFormError) as error:
            raise ChatError(f"{path}: not a saved conversation ({error!r}).") from error
        chat.turns = turns
        return chat


class _Listener:
    """Hears each token from the compiled program, which runs in a thread of its own, and may have it end.

    One object for a whole conversation: the program is compiled for it.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()  # (token, action); None: ended here; `_DONE`
        self._stop = False

    def __call__(self, token: int, action: int) -> bool:
        stop = self._stop
        self._told.put(None if stop else (token, action))
        return stop

    def listen(self, run: Callable[[], Answer], on_token: Callable[[int, int], None]) -> tuple[Answer, int | None]:
        """What `run` returns, and the number of the token at which Ctrl-C ended it, if it did.

        A second Ctrl-C before that is raised.
        """
        self._stop, self._told = False, queue.SimpleQueue()
        found: list[Answer | BaseException] = []
        told, stopped = 0, None

        def work() -> None:
            try:
                found.append(run())
            except BaseException as error:
                found.append(error)
            self._told.put(_DONE)

        threading.Thread(target=work, name="answer", daemon=True).start()
        while True:
            try:
                heard = self._told.get()
                if heard is _DONE:
                    break
                if heard is None:
                    stopped = told if stopped is None else stopped
                else:
                    told += 1
                    on_token(*heard)
            except KeyboardInterrupt:
                if self._stop:
                    raise
                self._stop = True
        (result,) = found
        if isinstance(result, BaseException):
            raise result
        return result, stopped
