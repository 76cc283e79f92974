"""The stages a request passes, in order: intake, ensure, launch, label, observe."""
