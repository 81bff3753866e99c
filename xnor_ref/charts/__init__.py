"""Charts, described once and drawn as SVG here, or as PNG and PDF by matplotlib."""
