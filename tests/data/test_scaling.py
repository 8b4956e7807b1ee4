import torch

from mtlrun.data.scaling import center_and_scale


def test_mean_and_deviation_of_each_column_without_missing_values() -> None:
    nan = torch.nan
    rows = torch.tensor([[1.0, 0.1, nan, nan], [3.0, 0.1, 5.0, nan], [5.0, 0.1, 9.0, nan]])
    center, scale = center_and_scale(rows)
    expected = torch.tensor([3.0, 0.1, 7.0, 0.0]).double()
    torch.testing.assert_close(center, expected, rtol=1e-7, atol=0)
    expected = torch.tensor([(8 / 3) ** 0.5, 1.0, 2.0, 1.0]).double()  # equal values: 1
    torch.testing.assert_close(scale, expected, rtol=1e-6, atol=0)
