"""The model in service: on its device, scored by the fast way, chosen by the router."""
