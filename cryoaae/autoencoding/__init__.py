"""The 2-D adversarial-autoencoder family: fitted on images, scored against published numbers."""
