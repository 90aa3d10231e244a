"""A run folder mirrored on the Hugging Face Hub: a run goes on after its machine is lost."""
