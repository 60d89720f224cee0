"""Sparkplug B (Eclipse Sparkplug 3.0): MQTT's payloads in protobuf, whose metrics may be named by aliases alone."""
