"""Why a connection did not come back, as far as the source of its taker says."""
