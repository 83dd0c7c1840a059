import gc
import threading

import numpy as np
import pytest

from marigold_demo.depth import CancelledError, DepthMap, Progress, Run
from marigold_demo.errors import CheckpointError, DemoError
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings
from marigold_demo.workflow import Workflow
from tests.predictors import stepwise


class Ramp:
    """Predicts depth that falls from top to bottom, counts its network calls and how many ran at once."""

    def __init__(self, *, steps: int = 3, step_lasts: threading.Event | None = None) -> None:
        self.calls, self.running, self.peak, self.closed = 0, 0, 0, 0
        self._steps, self._step_lasts = steps, step_lasts

    @stepwise
    def __call__(self, photo, settings):
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            for done in range(self._steps):
                yield Progress("denoise", done, self._steps)
                self.calls += 1
                if self._step_lasts is not None:
                    self._step_lasts.wait(10)
            height, width = photo.rgb.shape[:2]
            yield DepthMap(np.repeat(np.linspace(1, 0, height, dtype=np.float32)[:, None], width, axis=1))
        finally:
            self.running -= 1
            self.closed += 1


def photo_of(value: int) -> Photo:
    return Photo(np.full((20, 30, 3), value, dtype=np.uint8))


def test_a_prediction_reports_each_network_call_and_ends_with_the_depth():
    *progress, depth = Workflow(Ramp()).stream(photo_of(1), DepthSettings())
    assert progress == [Progress("denoise", done, 3) for done in range(3)]
    assert depth.size == (30, 20)


def test_the_same_photo_and_settings_are_predicted_once():
    ramp = Ramp()
    workflow = Workflow(ramp)
    first = workflow.estimate(photo_of(1), DepthSettings())
    again = workflow.estimate(photo_of(1), DepthSettings())  # another object with the same pixels
    assert again is first
    assert ramp.calls == 3


def test_other_settings_or_another_photo_are_predicted_anew():
    ramp = Ramp()
    workflow = Workflow(ramp)
    workflow.estimate(photo_of(1), DepthSettings())
    workflow.estimate(photo_of(1), DepthSettings(seed=1))
    workflow.estimate(photo_of(2), DepthSettings())
    assert ramp.calls == 9


def test_what_does_not_fit_is_forgotten_and_predicted_again():
    ramp = Ramp()
    workflow = Workflow(ramp, keep_bytes=20 * 30 * 4)
    workflow.estimate(photo_of(1), DepthSettings())
    workflow.estimate(photo_of(2), DepthSettings())
    workflow.estimate(photo_of(1), DepthSettings())
    assert ramp.calls == 9


def test_closing_the_stream_stops_before_the_next_network_call_and_lets_the_next_visitor_in():
    ramp = Ramp()
    workflow = Workflow(ramp)
    steps = workflow.stream(photo_of(1), DepthSettings())
    next(steps), next(steps)
    steps.close()
    assert (ramp.calls, ramp.closed) == (1, 1)
    assert workflow.estimate(photo_of(2), DepthSettings()).size == (30, 20)


def test_a_cancelled_prediction_is_not_kept():
    workflow = Workflow(Ramp())
    steps = workflow.stream(photo_of(1), DepthSettings())
    next(steps)
    steps.close()
    assert isinstance(next(workflow.stream(photo_of(1), DepthSettings())), Progress)


def test_an_exception_from_the_callback_stops_the_prediction_and_frees_the_turn():
    ramp = Ramp()
    workflow = Workflow(ramp)

    def stop(progress: Progress) -> None:
        if progress.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workflow.estimate(photo_of(1), DepthSettings(), run=Run(stop))
    assert (ramp.calls, ramp.closed) == (1, 1)
    assert workflow.estimate(photo_of(1), DepthSettings()).size == (30, 20)


def test_a_failed_prediction_frees_the_turn():
    @stepwise
    def fails(photo, settings):
        yield Progress("denoise", 0, 1)
        raise CheckpointError("No such checkpoint; name a folder.")

    workflow = Workflow(fails)
    for _ in range(2):
        with pytest.raises(CheckpointError):
            workflow.estimate(photo_of(1), DepthSettings())


def test_two_visitors_never_use_the_network_at_the_same_time_and_the_waiting_one_can_leave():
    step_lasts = threading.Event()
    ramp = Ramp(step_lasts=step_lasts)
    workflow = Workflow(ramp, poll_s=0.01)
    first = threading.Thread(target=workflow.estimate, args=(photo_of(1), DepthSettings()))
    first.start()
    while not ramp.calls:
        pass
    waiting = workflow.stream(photo_of(2), DepthSettings())
    assert next(waiting) == next(waiting) == Progress("wait", 0, 1)
    waiting.close()
    patient = workflow.stream(photo_of(3), DepthSettings())
    assert next(patient) == Progress("wait", 0, 1)
    step_lasts.set()
    *_, depth = patient
    first.join()
    assert depth.size == (30, 20)
    assert ramp.peak == 1


def test_who_waits_hears_how_many_are_before_and_is_served_in_order():
    workflow = Workflow(Ramp(), poll_s=0.01)
    streams = [workflow.stream(photo_of(value), DepthSettings()) for value in range(4)]
    assert next(streams[0]) == Progress("denoise", 0, 3)
    assert [next(stream).total for stream in streams[1:]] == [1, 2, 3]
    streams[1].close()  # whoever leaves lets the others forward
    assert [next(stream).total for stream in streams[2:]] == [1, 2]
    assert isinstance([*streams[0]][-1], DepthMap)
    assert next(streams[2]) == Progress("denoise", 0, 3)
    assert next(streams[3]).total == 1
    streams[2].close(), streams[3].close()


def test_visitors_take_turns_however_many_wait_of_one():
    workflow = Workflow(Ramp(), poll_s=0.01)
    names = ["anna", "anna", "anna", "ben", "cleo", "ben", None]
    streams = [
        workflow.stream(photo_of(value), DepthSettings(), visitor=name) for value, name in enumerate(names)
    ]
    assert next(streams[0]).stage == "denoise"
    for stream in streams[1:]:
        next(stream)
    assert [next(stream).total for stream in streams[1:]] == [1, 5, 2, 3, 6, 4]
    for number in (0, 1, 3, 4, 6, 2, 5):
        assert next(streams[number]).stage == "denoise"  # its turn
        streams[number].close()


def test_one_visitor_has_so_many_waiting_and_others_get_in():
    workflow = Workflow(Ramp(), poll_s=0.01, waiting_per_visitor=2)
    streams = [workflow.stream(photo_of(v), DepthSettings(), visitor="anna") for v in range(4)]
    assert [next(stream).stage for stream in streams[:3]] == ["denoise", "wait", "wait"]
    with pytest.raises(DemoError, match="You have 2 photos waiting already; try again when one"):
        next(streams[3])
    others = [
        workflow.stream(photo_of(9), DepthSettings(), visitor="ben"),
        workflow.stream(photo_of(8), DepthSettings()),
        workflow.stream(photo_of(7), DepthSettings()),
        workflow.stream(photo_of(6), DepthSettings()),
    ]
    assert [next(other).stage for other in others] == ["wait"] * 4
    streams[2].close()
    again = workflow.stream(photo_of(3), DepthSettings(), visitor="anna")
    assert next(again).stage == "wait"
    for stream in (*streams, *others, again):
        stream.close()
    assert workflow.estimate(photo_of(5), DepthSettings()).size == (30, 20)


def test_what_is_not_admitted_does_not_wait_but_what_is_known_is_given():
    ramp = Ramp()
    known = DepthMap(np.zeros((20, 30), dtype=np.float32))

    def admit(settings):
        raise CheckpointError("Not here; choose another.")

    workflow = Workflow(ramp, admit=admit)
    with pytest.raises(CheckpointError):
        next(workflow.stream(photo_of(1), DepthSettings()))
    workflow.remember(photo_of(1), DepthSettings(), known)
    assert workflow.estimate(photo_of(1), DepthSettings()) is known
    assert ramp.calls == 0


def test_depth_that_is_known_is_not_predicted():
    ramp = Ramp()
    workflow, known = Workflow(ramp), DepthMap(np.zeros((20, 30), dtype=np.float32))
    workflow.remember(photo_of(1), DepthSettings(), known)
    assert workflow.estimate(photo_of(1), DepthSettings()) is known
    assert ramp.calls == 0


def test_a_cancelled_run_stops_before_the_next_network_call_and_frees_the_turn():
    ramp, run = Ramp(), Run()
    workflow = Workflow(ramp)
    run.cancelled = True
    with pytest.raises(CancelledError):
        workflow.estimate(photo_of(1), DepthSettings(), run=run)
    assert (ramp.calls, ramp.closed) == (0, 1)
    assert workflow.estimate(photo_of(1), DepthSettings()).size == (30, 20)


def test_a_stream_that_nobody_holds_any_more_ends_its_prediction():
    ramp = Ramp()
    workflow = Workflow(ramp)
    steps = workflow.stream(photo_of(1), DepthSettings())
    next(steps)
    del steps
    gc.collect()
    assert (ramp.calls, ramp.closed) == (0, 1)
    assert workflow.estimate(photo_of(2), DepthSettings()).size == (30, 20)
