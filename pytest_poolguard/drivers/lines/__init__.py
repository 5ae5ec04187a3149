"""How each library makes a connection over which poolguard asks a server: see ``moment``."""
