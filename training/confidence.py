"""What a sample can show: a difference counts where chance makes it less often than once in twenty."""

import math

from scipy import special

_CHANCE = 0.05


def shows_more(differ: int, count: int, allowed: float, *, one_is_none: bool = False) -> bool:
    """Whether `differ` of `count` show that more than the part `allowed` differ in general (Clopper and Pearson, 1934).

    With `one_is_none` a single one shows nothing.
    """
    if not differ or (one_is_none and differ == 1):
        return False
    return float(special.betaincinv(differ, count - differ + 1, _CHANCE)) > allowed


def least_loss(lost: int, won: int, count: int) -> float:
    """The least part of right answers that was lost, where of `count` examples `lost` became wrong and `won` right.

    The lower end of the interval of Agresti and Min, 2005, for the difference of paired proportions.
    """
    lost_, won_, count_ = lost + 0.5, won + 0.5, count + 2
    difference = (lost_ - won_) / count_
    deviation = math.sqrt(lost_ + won_ - (lost_ - won_) ** 2 / count_) / count_
    return difference - float(special.ndtri(1 - _CHANCE)) * deviation
