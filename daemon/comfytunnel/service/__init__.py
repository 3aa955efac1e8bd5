"""The daemon as a service of this machine: units for systemd, an agent for launchd. Nothing here talks to the daemon or asks a person."""
