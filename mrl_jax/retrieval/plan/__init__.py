"""Plans the cheapest search that finds enough."""
