"""RunPod: serverless endpoints as targets, and the pods of an account."""
