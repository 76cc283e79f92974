"""The stations a wish passes, in order: intake, ensure, launch, label, observe."""
