"""Runs that are killed, interrupted, and taken up again."""

import signal
import subprocess
import time

import pytest
import torch

import ssl_fast

from .runs import command, environment, finish, losses, pretrain, same_weights, weights

STEPS = 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing interrupts; with one thread, as the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield pretrain(tmp_path_factory.mktemp("runs") / "whole", steps=STEPS).folder
    finally:
        torch.set_num_threads(threads)


def slow(folder):
    """A run whose steps leave time to hit it between them."""
    patch = (
        "import sys, time; from ssl_fast.models import MaskFeat; loss = MaskFeat.loss; "
        "MaskFeat.loss = lambda *a: (time.sleep(0.05), loss(*a))[1]; "
        "from ssl_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    program, _, _, *arguments = command(folder, steps=STEPS)
    return subprocess.Popen(
        [program, "-c", patch, *arguments],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process, path, timeout=120):
    """Returns when the file is there and the process still runs."""
    end = time.monotonic() + timeout
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path}"
        time.sleep(0.01)


def test_kill_9_loses_no_more_than_the_steps_since_the_checkpoint(whole, tmp_path):
    folder = tmp_path / "run"
    process = slow(folder)
    last = folder / "checkpoints" / "last.ckpt"
    wait_for(process, last)
    time.sleep(0.2)  # some steps, or a checkpoint, later
    process.kill()
    process.communicate()
    step = torch.load(last, weights_only=True)["global_step"]
    assert 0 < step < STEPS
    assert step % 3 == 0
    # What a kill in the middle of writing leaves.
    (folder / "checkpoints" / ".last.ckpt.0123abcd.tmp").write_bytes(b"half")
    result = ssl_fast.pretrain(resume=folder)
    assert (result.finished, result.folder) == (True, folder)
    assert same_weights(weights(whole), weights(folder))
    assert losses(whole) == losses(folder)
    assert {path.name for path in (folder / "checkpoints").iterdir()} <= {"last.ckpt", "best.ckpt"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(whole, tmp_path, number):
    folder = tmp_path / "my run"
    process = slow(folder)
    wait_for(process, folder / "checkpoints" / "last.ckpt")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert f"ssl-fast pretrain --resume '{folder}'" in out
    step = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert f"stopped at step {step} of {STEPS}" in out
    assert 3 <= step < STEPS
    assert not (folder / "export").exists()
    done = finish([process.args[0], "-m", "ssl_fast", "pretrain", "--resume", str(folder)])
    assert (done.returncode, done.stderr) == (0, "")
    assert f"goes on at step {step}" in done.stdout
    assert same_weights(weights(whole), weights(folder))
    assert losses(whole) == losses(folder)


def test_the_line_while_it_runs(tmp_path):
    done = finish(command(tmp_path / "run"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("step 10/10")]
    assert len(lines) == 1
    for part in ("epoch 1/1", "loss 0.", "images/s", "data ", " MB", "left 0:00"):
        assert part in lines[0]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (dict(data="/nowhere/at/all"), 1, "the folder of images /nowhere/at/all does not exist"),
        (dict(batch_size="many"), 2, "batch_size"),
        (dict(nonsense=1), 2, "nonsense"),
        (dict(backbone="vit_tinny"), 1, "timm has no model 'vit_tinny'"),
        (dict(lr=1e30, clip_grad=0), 1, "no checkpoint was saved before. Likely causes:"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, options, code, message, capfd):
    from ssl_fast.cli import main

    try:
        got = main(command(tmp_path / "run", **options)[3:])
    except SystemExit as stop:
        got = stop.code
    err = capfd.readouterr().err
    assert got == code
    assert err.count("\n") == 1, err
    assert err.startswith("ssl-fast pretrain: ")
    assert message in err


def test_print_config_and_flags_over_a_file(tmp_path, capfd):
    from ssl_fast.cli import main

    with pytest.raises(SystemExit) as stop:
        main([*command(tmp_path / "run")[3:], "--batch_size", "48", "--print_config"])
    assert stop.value.code == 0
    out = capfd.readouterr().out
    assert "batch_size: 48\n" in out
    assert "backbone: vit_tiny_patch16_224\n" in out
