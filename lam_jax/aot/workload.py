"""How much one step works on: rows, lengths, images, prompts and samples. By default as much per chip on every pod."""

import dataclasses

Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of the inputs of one step.

    Attributes:
        rows: of a batch in stages 1 to 5 (in stages 3 and 4 as many text-only rows beside the paired ones).
        prompts: N, of one rollout.
        samples: G, completions of each prompt.
        prompt: tokens of a prompt, those of its image included.
        completion: tokens of a completion; rows of stages 1 to 5 hold a prompt and a completion.
        micro_batches: parts of an update's prompts that are run one after the other.
        image: (height, width) in pixels of the one image of each row or prompt; None: as recipes have it by default.
    """

    rows: int
    prompts: int
    samples: int = 8
    prompt: int = 1024
    completion: int = 1024
    micro_batches: int = 1
    image: tuple[int, int] | None = None

    def __post_init__(self):
        for name in ("rows", "prompts", "samples", "prompt", "completion", "micro_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"Workload.{name} is {getattr(self, name)}, expected at least 1.")

    @classmethod
    def of(cls, chips: int, **changes: int) -> "Workload":
        """One row and two samples a chip: 16 rows and 4 prompts x 8 samples on 16 chips, 64 x 8 on 256."""
        return dataclasses.replace(cls(rows=chips, prompts=max(1, chips // 4)), **changes)  # pyright: ignore[reportArgumentType]

    @property
    def length(self) -> int:
        """Tokens of a row in stages 1 to 5."""
        return self.prompt + self.completion
