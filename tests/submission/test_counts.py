from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.submission.counts import count_vessels


def test_by_hand(tmp_path, write_kidney):
    """Of 2 x 40 x 31 pixels 31 are vessel, 1.25 %; the second slice is empty."""
    write_kidney(tmp_path / "k", depth=2)
    write_kidney(tmp_path / "empty", depth=1)
    rles = {"k_0000": "1 30 100 1", "k_0001": "1 0", "empty_0000": "1 0"}
    first, second = count_vessels([open_volume(tmp_path / name) for name in ("k", "empty")], rles)
    assert first == ("k", 2, 1, 31, 100 * 31 / 2480) and second == ("empty", 1, 0, 0, 0.0)
    assert str(first) == "k: 2 slices, 1 with vessels, vessel 1.250 % of all pixels"
    assert str(second) == "empty: 1 slice, 0 with vessels, vessel 0.000 % of all pixels"
