"""The laws that the plug-ins of every family keep, for the tests of other packages too."""
