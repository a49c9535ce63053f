"""How a device with a model is, for the status file."""

import msgspec


class DeviceReport(msgspec.Struct, kw_only=True):
    """One `[[device]]`; figures are of the newest scores that were compared.

    Attributes:
      name: of the bridge's configuration.
      state: what is going on, in words.
      version: served version that its model comes from.
      stage: of the bridge's work for it: `sending`, `on trial`, `confirmed`, ...
      judges: who judged it at the gate.
      sha256: of what its slot holds, hexadecimal.
      compared: scores that were compared, since this process started.
      rows: of them in the window.
      bits_equal: of these, equal to the int8 reference.
      largest, mean: difference of their outputs from the gateway's float model.
      bound: that `largest` has to keep.
      clipped: rows beyond what int8 can say, which only the bits are compared of; since the start.
      other: scores without a row or reference, or of another model; since the start.
      score, gateway_score: the newest, by the device and by the gateway's float model.
      rejections: models that were refused or taken back, since the start.
      reason: of the last of them.
    """

    name: str
    state: str = "waiting for the bridge"
    version: int | None = None
    stage: str = ""
    judges: str = ""
    sha256: str = ""
    compared: int = 0
    rows: int = 0
    bits_equal: int = 0
    largest: float = 0.0
    mean: float = 0.0
    bound: float = 0.0
    clipped: int = 0
    other: int = 0
    score: float | None = None
    gateway_score: float | None = None
    rejections: int = 0
    reason: str = ""
