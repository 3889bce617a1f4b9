# vLLM with the extension: docker build -f deploy/compose/vllm.Dockerfile -t loradock-vllm .
FROM vllm/vllm-openai:v0.25.0
COPY vllm_extension /src/vllm_extension
RUN pip install --no-cache-dir --no-deps /src/vllm_extension
