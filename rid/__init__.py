"""RID Catalog: protects whole photo catalogs against identity theft by personalised diffusion models."""
