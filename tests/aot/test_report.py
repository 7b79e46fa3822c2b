"""Reports of programs that are compiled for eight host devices, and the arithmetic of estimates."""

import dataclasses

import pytest

from lam_jax.aot.abstract import bytes_per_chip
from lam_jax.aot.programs import Setting, build
from lam_jax.aot.report import Memory, Traffic, bandwidth, by_kind, check, estimate, hosts_spanned, refusal, wire_bytes
from lam_jax.aot.work import ChipWork
from lam_jax.aot.workload import Workload
from lam_jax.parallel import make_mesh, mesh_of
from lam_jax.parallel.chips import Chip
from lam_jax.parallel.collectives import Collective
from lam_jax.parallel.mesh import reshaped

WORK = Workload(rows=8, prompts=4, samples=2, prompt=24, completion=8, image=(56, 84))
CHIP = Chip("made up", flops=1e12, hbm=2**30, hbm_bandwidth=1e11, link_bandwidth=1e10, hop=0.0)


HOSTS = (0, 0, 0, 0, 1, 1, 1, 1)


def collective(kind, size, trips, group, groups=()):
    return Collective(kind, "f32", (size // 4,), size, trips, "name", "main", group, False, "", groups)


@pytest.fixture(scope="module")
def setting():
    return Setting("tiny", make_mesh((2, 2, 2)), WORK)


@pytest.fixture(scope="module")
def report(setting):
    return check("cloning", setting, "host:8", CHIP)


def test_a_report_adds_up(report, setting):
    program = build("cloning", setting)
    assert report.fits
    assert report.reason == ""
    assert (report.chips, report.mesh) == (8, {"data": 2, "fsdp": 2, "tensor": 2})
    assert report.memory.arguments + report.memory.beside >= bytes_per_chip(program.arguments)
    parts = dataclasses.asdict(report.memory).values()
    assert report.memory.total == sum(parts)
    assert min(parts) >= 0
    # Every product is on every chip or divided: together they do at least what the program asks for.
    assert report.flops <= report.chip_flops * 8 < 2 * report.flops
    assert report.collectives["all-reduce"].bytes > 0


def test_weights_that_the_program_does_not_read_count_beside_it(report, setting):
    """Cloning reads neither the world model nor P'; they stay where they are all the same."""
    _, frozen, _ = build("cloning", setting).arguments
    unread = (frozen.latent.world, frozen.latent.back_projector)
    assert report.memory.beside >= bytes_per_chip(unread) > 0


@pytest.mark.parametrize(("space", "head"), [("latent", True), ("hybrid", False)])
def test_a_decode_step_reads_a_byte_a_weight_of_a_backbone_in_int8(setting, space, head):
    """In the place of four; of a mesh whose `tensor` is 2 each chip half. The program holds them so."""
    held = dataclasses.replace(setting, rollout_weights="int8")
    same, int8 = (build(f"rollout_{space}", one) for one in (setting, held))
    text = setting.config.text
    kv = text.kv_heads * text.head_dim
    block = 2 * text.width * (text.width + kv) + 3 * text.width * text.hidden
    weights = text.layers * block + (text.vocab_size * text.width if head else 0)
    assert same.decode.floor - int8.decode.floor == 3 * weights / 2
    lowered = int8.trace().lower().as_text()
    assert f"tensor<{text.width}x{text.hidden}xi8>" in lowered
    assert (f"tensor<{text.width}x{text.vocab_size}xi8>" in lowered) == head


def test_only_rollouts_have_a_decode_step(report, setting):
    assert report.decode is None
    step = check("rollout_token", setting, "host:8", CHIP).decode
    assert step.bytes_read / step.floor >= 1
    assert step.collectives >= 2 * setting.config.text.layers  # two sums over `tensor` a block


def test_a_smaller_chip_does_not_hold_it(setting, report):
    small = check("cloning", setting, "host:8", dataclasses.replace(CHIP, hbm=report.memory.total - 1))
    assert not small.fits
    assert small.reason.startswith("needs ")
    assert small.reason.endswith("GiB")


def test_collectives_are_added_up_by_kind():
    sent = [collective("all-gather", 400, 3, 4), collective("all-gather", 100, 1, 2), collective("all-reduce", 8, 2, 4)]
    assert by_kind(sent) == {"all-gather": Traffic(4, 1300), "all-reduce": Traffic(2, 16)}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("all-gather", 3 / 4 * 1200), ("reduce-scatter", 900), ("all-reduce", 2 * 900), ("collective-permute", 1200)],
)
def test_bytes_on_the_wire(kind, expected):
    assert wire_bytes(collective(kind, 400, 3, 4)) == expected


@pytest.mark.parametrize(
    ("groups", "spanned", "expected"),
    [
        (((0, 1, 2, 3), (4, 5, 6, 7)), 1, 1e10),
        (((0, 4), (1, 5), (2, 6), (3, 7)), 2, 1e9),
        (((0, 2, 4, 6), (1, 3, 5, 7)), 2, 2e9),
        ((tuple(range(8)),), 2, 4e9),
    ],
)
def test_a_collective_that_leaves_its_host_goes_at_the_network_s_rate(groups, spanned, expected):
    """Two hosts of four cards: members of the ring in one host each bring an adapter of 1e9 bytes a second."""
    card = dataclasses.replace(CHIP, network_bandwidth=1e9)
    sent = collective("all-gather", 400, 3, len(groups[0]), groups)
    assert hosts_spanned(sent, HOSTS) == spanned
    assert bandwidth(sent, card, HOSTS) == expected
    assert by_kind([sent], HOSTS) == {"all-gather": Traffic(3, 1200, 1200 if spanned > 1 else 0)}
    assert bandwidth(sent, card, ()) == bandwidth(sent, CHIP, HOSTS) == 1e10  # one host; a TPU's links go everywhere


def test_estimate_by_hand():
    """Per chip 2e9 operations at 1e12/s, 3e8 + 1e8 bytes at 1e11/s, 1.5e7 bytes sent at 1e10/s."""
    memory = Memory(arguments=8 * 10**7, beside=10**9, outputs=2 * 10**7, temporaries=5, code=5)
    sent = [collective("all-gather", 2 * 10**7, 1, 4)]
    found = estimate(4 * 10**9, ChipWork(2 * 10**9, 3 * 10**8), memory, sent, CHIP, chips=4)
    assert found.compute == pytest.approx(0.002)
    assert found.memory == pytest.approx(0.004)
    assert found.communication == pytest.approx(0.0015)
    assert found.step == pytest.approx(0.0055)
    assert found.mfu == pytest.approx(4e9 / (0.0055 * 4e12))


# A 2x4 of chips whose last and first ones are not linked.
PLACES = tuple((x, y) for x in range(2) for y in range(4))


@pytest.mark.parametrize(
    ("kind", "groups", "hops"),
    [
        ("all-gather", ((0, 1), (2, 3)), 1),
        ("all-gather", ((0, 3), (1, 2)), 3),  # the widest group is waited for
        ("all-reduce", ((0, 1, 4, 5), (2, 3, 6, 7)), 4),
        ("all-reduce", (tuple(range(8)),), 8),
        ("collective-permute", ((0, 7), (7, 0)), 4),
    ],
)
def test_a_collective_waits_for_its_longest_way(kind, groups, hops):
    chip = dataclasses.replace(CHIP, hop=1e-6, torus=2, wraps=16)
    sent = [dataclasses.replace(collective(kind, 400, 5, 4, groups), name="a")]
    sent += [dataclasses.replace(sent[0], shape=(3,))]  # another array of the same operation waits with it
    memory = Memory(arguments=0, beside=0, outputs=0, temporaries=0, code=0)
    found = estimate(1, ChipWork(0, 0), memory, sent, chip, chips=8, places=PLACES)
    assert found.latency == pytest.approx(5 * hops * 1e-6)
    assert found.step == pytest.approx(found.communication + found.latency)


def test_rollouts_are_compiled_for_their_own_mesh(setting):
    """The update's batch is on the mesh of training; both placements of the frozen half are counted."""
    other = dataclasses.replace(setting, rollout_mesh=reshaped(setting.mesh, (1, 2, 4)))
    rollout, update = (build(f"{kind}_latent", other) for kind in ("rollout", "update"))
    plain = build("rollout_latent", setting)
    assert check("rollout_latent", other, "host:8", CHIP).mesh == {"data": 1, "fsdp": 2, "tensor": 4}
    assert update.mesh == setting.mesh
    assert mesh_of(update.arguments) == setting.mesh
    assert mesh_of(rollout.arguments) == other.rollout_mesh
    held = [bytes_per_chip(program.arguments[0]) for program in (rollout, plain)]
    assert held[0] < 0.75 * held[1]
    assert bytes_per_chip(rollout.resident) - bytes_per_chip(rollout.arguments) > bytes_per_chip(update.arguments[1])


def test_the_compiler_s_refusal_is_quoted_without_the_listing():
    message = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (240.00G) exceeds available HBM (15.75G). HLO module: jit_f.\nSee https://openxla.org\n"
        + "x"
        * 999
    )
    assert refusal(message) == (
        "the compiler refuses it: Ran out of memory on HBM, the total memory required for HLO temporaries (240.00G) "
        "exceeds available HBM (15.75G)"
    )
    assert refusal("RESOURCE_EXHAUSTED: no room\nlisting") == "the compiler refuses it: RESOURCE_EXHAUSTED: no room"
