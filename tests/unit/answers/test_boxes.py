from thinktune.answers.boxes import find_boxed


def test_a_box_may_hold_braces():
    assert find_boxed(r"\boxed{1} and \boxed{\frac{1}{2}} {x}") == r"\frac{1}{2}"
    assert find_boxed(r"\boxed{\{1, 2\}}") == r"\{1, 2\}"
    assert find_boxed(r"\boxed{never closed") is None
    assert find_boxed("none") is None
