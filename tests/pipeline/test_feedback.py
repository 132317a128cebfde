import pytest

from pipeline.feedback import FeedbackRatio, FeedbackSettings


def test_the_ratio_rises_only_on_a_plateau():
    rule = FeedbackRatio(FeedbackSettings(signal="plateau", patience=2, tolerance=0.01), 0.5, 0.6)
    ratios = []
    for loss in [1.0, 0.9, 0.8, 0.8, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0]:
        rule.observe(loss, None)
        ratios.append(rule.ratio)
    # two epochs at .8 are a plateau; the next epoch's higher loss is the new reference
    assert ratios == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.55, 0.55, 0.55, 0.6, 0.6, 0.6])


def test_the_ratio_waits_while_gradients_are_noisy():
    rule = FeedbackRatio(FeedbackSettings(signal="noise_scale", patience=1, smoothing=0.0, tolerance=0.1), 0.5, 0.9)
    rule.observe(1.0, 100.0)
    quiet = rule.ratio
    rule.observe(1.0, 100.0)
    rule.state.best = 100.0
    rule.observe(1.0, 500.0)
    noisy = rule.ratio
    assert quiet == pytest.approx(0.55)
    assert noisy == pytest.approx(0.6)


def test_a_falling_ratio_stops_at_its_end():
    rule = FeedbackRatio(FeedbackSettings(signal="plateau", patience=1, increment=0.2), 0.8, 0.5)
    for _ in range(10):
        rule.observe(1.0, None)
    assert rule.ratio == 0.5


def test_going_on_from_a_checkpoint_takes_the_same_decisions():
    settings, losses = FeedbackSettings(signal="plateau", patience=2), [1.0, 0.9, 0.9, 0.9, 0.95, 0.95, 0.95, 0.8]
    whole = FeedbackRatio(settings, 0.4, 0.8)
    for loss in losses:
        whole.observe(loss, None)
    first, second = FeedbackRatio(settings, 0.4, 0.8), FeedbackRatio(settings, 0.4, 0.8)
    for loss in losses[:4]:
        first.observe(loss, None)
    second.load_state_dict(first.state_dict())
    for loss in losses[4:]:
        second.observe(loss, None)
    assert second.state == whole.state
