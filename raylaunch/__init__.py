"""raylaunch: one large model across your GPU machines, on Ray and vLLM, behind one OpenAI-compatible URL."""

__version__ = "0.1.0"
