"""How steep a loss may be before momentum and stale gradients make gradient descent diverge: a pure function.

On a quadratic of curvature lambda, heavy-ball momentum m and a gradient that is tau updates old make

    x[t+1] = x[t] + m (x[t] - x[t-1]) - c x[t - tau],    c = lr * lambda

Which optimizers are this heavy ball, and what their c is, P being what the gradient is divided by:

| optimizer | update | c |
|---|---|---|
| SGD | b = m b + g; w -= lr b | lr lambda(H) |
| RMSProp of TensorFlow 1 | b = m b + lr g / P; w -= b; P = sqrt(ms + eps) | lr lambda(P^-1/2 H P^-1/2) |
| RMSprop of torch | b = m b + g / P; w -= lr b; P = sqrt(v) + eps | the same |
| Adam | b = m b + (1 - m) g; w -= lr b / P; m = beta1 | (1 - m) times the same |

Whether the rate stands inside the momentum or outside makes no difference while it and P are constant. An L2 penalty
adds its factor to H. Nesterov's momentum is another polynomial; no optimizer of `harness.optim.build` has it.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal

ReplicaOrder = Literal["round_robin", "random"]


def threshold(momentum: float, delay: float, order: ReplicaOrder = "round_robin") -> float:
    """The largest stable c = lr * curvature, > 0: at delay 0 it is 2 (1 + m).

    momentum: m, in [0, 1).
    delay: updates between the parameters that a gradient is of and its use, a whole number >= 0; of N asynchronous
        replicas N - 1, in `random` order in the mean.
    order: `round_robin`: every gradient is that old; exact. At m = 0 it is 2 sin(pi / (4 delay + 2)) (Giladi et al.
        1909.12340). `random`: each update takes the gradient of one of delay + 1 replicas, all of them equally likely
        at every update, as exponential service times have it; then it is where the mean of x**2 stops to decay, exact
        too. The mean of x decays far beyond that (Mitliagkas et al. 1605.09774 have its polynomial), which says
        nothing of a single run.
    Raises TypeError for what is no number, ValueError for a number out of its range or an unknown order.
    """
    m, tau = _number("momentum", momentum), _number("delay", delay)
    if not 0 <= m < 1:
        raise ValueError(f"momentum is {momentum}; expected a number in [0, 1)")
    if not (tau >= 0 and tau.is_integer()):
        raise ValueError(f"delay is {delay}; expected a whole number of updates >= 0")
    if order not in ("round_robin", "random"):
        raise ValueError(f"order is {order!r}; allowed: round_robin, random")
    if tau == 0:
        return 2 * (1 + m)
    return _in_turn(m, tau) if order == "round_robin" else _in_random_order(m, tau + 1)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; expected a number")
    return float(value)


def _in_turn(m: float, tau: float) -> float:
    """c at which the first roots of z**(tau+1) - (1+m) z**tau + m z**(tau-1) + c come to the unit circle.

    z = exp(2 i psi) is a root where c = 2 sin(psi) |z - m| and tan(psi) tan(2 tau psi) = (1 - m) / (1 + m). c grows
    with psi, so that the first such angle counts: it is in (0, pi / (4 tau + 2)], and bisected to the last digit.
    """
    low, high = 0.0, math.pi / (4 * tau + 2)
    while low < (psi := (low + high) / 2) < high:
        if (1 + m) * math.tan(psi) * math.tan(2 * tau * psi) < 1 - m:
            low = psi
        else:
            high = psi
    return 2 * math.sin(psi) * math.hypot((1 - m) * math.cos(psi), (1 + m) * math.sin(psi))


def _in_random_order(m: float, n: float) -> float:
    """c at which the second moments of a run with n replicas stop to decay.

    The replicas are alike, so that E of x**2, x y, y**2, x S, y S, Q and S**2 are closed under an update (y: x one
    update before; S, Q: sum and sum of squares of the parameters whose gradients are pending). The largest eigenvalue
    of that 7x7 map, which keeps positive matrices positive, is real; it is 1 where a c**2 + b c = d.
    """
    a = n * n * (1 + m) - m * (n + 1)
    b = n * (3 * m - 1) * (1 + m) - m * (3 + m)
    d = 2 * (1 - m) * (1 + m) * (n * (1 - m) + m)
    root = math.sqrt(b * b + 4 * a * d)
    return 2 * d / (b + root) if b > 0 else (root - b) / (2 * a)
