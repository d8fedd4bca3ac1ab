"""A small text-to-image latent diffusion model of faces, trained by this project.

It is a Stable-Diffusion-layout pipeline at 64 px, so that the whole chain can run and be measured where no model hub
is reachable. `architecture` builds the parts, `faces` reads captioned photos, `train_autoencoder` and `train_denoiser`
train them, and `runs` does so from files to a folder, for `rid train-embedded`.
"""
