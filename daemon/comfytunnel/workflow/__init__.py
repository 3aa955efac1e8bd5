"""Workflows as data: graphs in API format. Pure."""
