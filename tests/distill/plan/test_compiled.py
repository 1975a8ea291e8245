import math

from distill.plan.compiled import read_refusal

GIB = 2**30


def test_a_refusal_says_what_is_needed_and_what_there_is():
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (229.32G) exceeds "
        "available HBM (95.74G)."
    )
    found = read_refusal(text)
    assert found is not None and (found.needed, found.available) == (229.32 * GIB, 95.74 * GIB)


def test_one_that_comes_after_the_layout_of_buffers_too():
    text = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.33G of 15.75G hbm. Exceeded hbm capacity "
        "by 593.92M."
    )
    found = read_refusal(text)
    assert found is not None and (found.needed, found.available) == (16.33 * GIB, 15.75 * GIB)


def test_one_without_numbers_is_one_all_the_same():
    found = read_refusal("RESOURCE_EXHAUSTED: out of memory")
    assert found is not None and math.isnan(found.needed)


def test_another_error_is_no_refusal():
    assert read_refusal("UNIMPLEMENTED: Stable sorting of more than 2^31-1 elements is not implemented") is None
