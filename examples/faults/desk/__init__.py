"""The booking desk of a theatre, twice: its errors leak connections, or they don't."""
