"""Student repositories, made from an allow-list: empty package, blanked adapters, public tests, our own texts."""
