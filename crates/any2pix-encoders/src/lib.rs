//! Perception: image, audio and text to embeddings.
