"""The watched libraries: one module each, all with the interface of ``interface``; ``known`` lists them."""
