"""The models that live workers announce, which version answers, and what operators change at run time."""
