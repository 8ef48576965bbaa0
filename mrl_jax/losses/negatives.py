"""Which keys of a batch are negatives of which queries."""

from typing import Any

# The number of a text that is not there.
MISSING = -1


def mask(text_NC: Any) -> Any:
  """Whether each key of a batch may be a negative of each query, bool [N, M].

  Row i of `text_NC`, integers, numbers the texts of example i: its query, its
  key and its hard negatives; equal texts have equal numbers, and MISSING stands
  for none. The M = N * (C - 1) keys come column by column, so that key i is
  that of query i. A key is no negative of a query if it equals the query or
  the query's own key, or if it answers an equal query. The own key is not
  marked, either. Takes and returns arrays of numpy or JAX.
  """
  query_N, key_N = text_NC[:, 0], text_NC[:, 1]
  all_M = text_NC[:, 1:].T.reshape(-1)
  is_other_NM = (
    (all_M[None, :] != MISSING)
    & (all_M[None, :] != query_N[:, None])
    & (all_M[None, :] != key_N[:, None])
  )
  is_other_NN = query_N[:, None] != query_N[None, :]
  N = len(query_N)
  # Keys from N on are hard negatives, which answer no query.
  namespace = text_NC.__array_namespace__()
  return namespace.concat(
    [is_other_NM[:, :N] & is_other_NN, is_other_NM[:, N:]], axis=1
  )
