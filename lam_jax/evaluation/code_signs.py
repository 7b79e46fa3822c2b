"""The failure signs of the method, read from an atlas's numbers: what shows each, and what to change.

The limits are rules of thumb from small trials (method.md section 8), not tests.
"""

import math
from typing import Any

Record = dict[str, Any]
GOOD, WATCH, BAD, UNKNOWN = "good", "watch", "bad", "not measured"


def _status(value: float | None, bad: bool, watch: bool) -> str:
    return UNKNOWN if value is None else BAD if bad else WATCH if watch else GOOD


def failure_signs(atlas: Record) -> list[Record]:
    """Each sign with its status, numbers `(what, value)`, what it means and what to change."""
    return [
        _collapse(atlas),
        _effect(atlas),
        _information(atlas),
        _projector(atlas),
        _policy(atlas),
        _dull(atlas),
        *([_narrowed(atlas)] if atlas["rl"] else []),
    ]


def _sign(name: str, status: str, numbers: list[tuple[str, Any]], meaning: str, change: str) -> Record:
    return {
        "sign": name,
        "status": status,
        "numbers": [{"what": what, "value": value} for what, value in numbers],
        "meaning": meaning,
        "change": change,
    }


def _collapse(atlas: Record) -> Record:
    found, codes = atlas["groups"][0]["inverse"], atlas["codes"]
    used, perplexity, top = found["used_share"], found["perplexity"], found["top_share"]
    return _sign(
        "Collapsed or unused codes",
        _status(used, used < 0.1 or top > 0.8, used < 0.5 or perplexity < codes / 4 or top > 0.4),
        [
            ("codes in use, share of all codes", used),
            ("perplexity of the codes (at most the number of codes)", perplexity),
            ("share of the commonest code", top),
        ],
        "Bad under 10 % of the codes in use, or over 80 % of positions on one code; watch under half in use, a "
        "perplexity under a quarter of the codes, or over 40 % on one. Few rows leave codes unused too: read more.",
        "Fewer codes (LatentConfig.codes), a longer stage 1 or another seed. Method.entropy_weight makes single "
        "positions less sure, which lets other codes be tried; it does not spread their use by itself.",
    )


def _effect(atlas: Record) -> Record:
    effect = atlas["effect"]
    kl, distinct = effect["mean_kl"], effect["distinct"]
    return _sign(
        "Codes without effect",
        _status(kl, kl < 0.05, kl < 0.3 or distinct < 1.3),
        [
            ("KL of the next token under a code from the mean over codes, nats, mean over codes", kl),
            ("different most likely tokens over all codes at a position", distinct),
            ("codes with a KL under 0.05 nats", effect["without"]),
        ],
        "Bad under 0.05 nats, watch under 0.3 nats or 1.3 tokens: whatever the policy chooses, the answer stays.",
        "Stage 5 may have washed the codes out: Method.sft='learn', with more steps, lets them learn from the task's "
        "rows; 'joint' and 'guided' keep more of them than 'released'. Else a longer stage 3, and the readout 'merged' "
        "throughout (Method.learning, acting, generating).",
    )


def _information(atlas: Record) -> Record:
    found, most = atlas["groups"][0]["inverse"], math.log(atlas["codes"])
    share = found["mutual_information"] / most
    return _sign(
        "Undecided inverse model",
        _status(share, share < 0.1, share < 0.3),
        [
            ("mutual information of position and code, nats", found["mutual_information"]),
            (f"the same as a share of log K = {most:.2f} nats", share),
            ("entropy of a position's code, nats", found["conditional_entropy"]),
        ],
        "Bad under 10 % of log K, watch under 30 %: the inverse model hardly tells positions apart.",
        "A longer stage 1, a smaller Method.entropy_weight, or a lower LatentConfig.tau.",
    )


def _projector(atlas: Record) -> Record:
    error, agreement, chance = (atlas["projector"][k] for k in ("error", "agreement", "chance"))
    close = None if agreement is None else agreement - chance
    bad = error is not None and error > 1.0
    return _sign(
        "Unaligned projector",
        _status(
            None if error is None else error,
            bad or (close is not None and close < 0.05),
            error is not None and (error > 0.6 or (close is not None and close < 0.3)),
        ),
        [
            ("squared error of P(text state) against the image-text state, over that of the mean state", error),
            ("same code inferred with the picture and without it, share of positions", agreement),
            ("the same by chance, from the usage with the picture and without it", chance),
        ],
        "Bad over 1 (worse than always the mean) or agreement less than 5 points over chance; watch over 0.6 or "
        "under 30 points. Then text-only rows teach codes that mean something else beside a picture. States that "
        "stage 5 moved on count too: the projector was trained before it.",
        "Longer stages 2 and 3, a larger Method.nll_weight, Method.cycle on; without text-only rows the projector is "
        "not needed (Method.project, Method.text_only).",
    )


def _policy(atlas: Record) -> Record:
    accuracy, majority = atlas["cloning_accuracy"], atlas["groups"][0]["inverse"]["top_share"]
    over = accuracy - majority
    return _sign(
        "Policy that learned no codes",
        _status(over, over < 0.02, over < 0.1),
        [
            ("policy's most likely code is the inferred one, share of positions", accuracy),
            ("share of the commonest code, which a constant policy would reach", majority),
        ],
        "Bad where it is hardly better than a constant (2 points), watch under 10 points. After RL it may fall, "
        "since RL moves the policy away from the rows' answers.",
        "A longer stage 4, stage 5 by Method.sft='joint' (which trains the policy too), a larger learning rate there.",
    )


def _dull(atlas: Record) -> Record:
    drawn = atlas["drawn"]
    distinct, samples = drawn["distinct_answers"], drawn["samples"]
    share = None if samples < 2 else (distinct - 1) / (samples - 1)
    repeated = drawn["repeated_4grams"]
    return _sign(
        "Dull answers",
        _status(
            share,
            share is not None and (share < 0.15 or (repeated or 0) > 0.4),
            share is not None and (share < 0.5 or (repeated or 0) > 0.15),
        ),
        [
            (f"different answers of {samples} to a prompt at temperature {drawn['temperature']:g}", distinct),
            ("different pairs of words, share of all pairs over all answers", drawn["distinct_2"]),
            ("repeated 4-grams within an answer, share", repeated),
            ("mean length, tokens", drawn["length"]["mean"]),
            ("answers that end by themselves, share", drawn["ended"]),
        ],
        "Bad where nearly all answers to a prompt are one, watch where under half of the further draws differ, or "
        "over 15 % of 4-grams come again.",
        "A higher temperature of the codes, a larger beta or fewer steps of RL; then see 'codes without effect': if "
        "codes do nothing, no draw of codes makes answers differ.",
    )


def _narrowed(atlas: Record) -> Record:
    rl = atlas["rl"]
    before, after = rl["own_perplexity_before"], rl["own_perplexity_after"]
    ratio = after / before
    return _sign(
        "RL that narrowed the codes",
        _status(ratio, ratio < 0.4, ratio < 0.75),
        [
            ("perplexity of the codes of the agent's own answers after SFT", before),
            ("the same after RL", after),
            ("positions of the rows' answers whose most likely code RL changed, share", rl["changed"]),
        ],
        "Bad where RL leaves under 40 % of the perplexity, watch under 75 %.",
        "A larger beta (KL to the policy before RL), a smaller learning rate, fewer steps, or more prompts.",
    )
