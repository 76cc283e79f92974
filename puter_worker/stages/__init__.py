"""The stages that a request passes, in this order: intake, ensure, resolve, launch, label, observe."""
