"""Whether a peer is there, from births and wills that may come late, twice or in another order.

A broker may repeat and reorder all of them (`PROTOCOL.md`, "Birth, will and late wills"), so the
newest connection counts and not the message that came last.  Without this, a will that came a
second time after the next birth would keep a peer away that is there, for as long as it stays
connected: nobody asks who is believed to be gone, so nothing would ever say otherwise.

Pure; soft state: after a restart the retained states tell it again.
"""

from dataclasses import dataclass


@dataclass
class Presence:
    """What is known of one peer.

    Attributes:
      is_there: whether the newest connection that it was heard of lives.
    """

    is_there: bool = False
    _newest: tuple[int, int, bool] = (0, 0, False)

    @property
    def session(self) -> int:
        """Of the newest connection."""
        return self._newest[0]

    def hear(self, *, is_online: bool, session: int, connection: int) -> bool:
        """Take a birth or a will; return False for one that is older than what is known.

        Args:
          is_online: a birth; else a will, the last word of its connection.
          session: grows with every start, or with every connection.
          connection: grows with every connection of a session; 0 from a peer that does not count
            them, whose states of one session replace each other as they come.
        """
        said = (session, connection, connection > 0 and not is_online)
        if said < self._newest:
            return False
        self._newest, self.is_there = said, is_online
        return True


def is_will(counter: int) -> bool:
    """Whether an `offline` was signed as a will: first of all that its session says (n = 1)."""
    return counter & 0xFFFF_FFFF == 1
