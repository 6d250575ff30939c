#!/usr/bin/env python3
"""`llm` and `openai-to-sqlite` without a network: the tools themselves, with embeddings that
were computed before.

    offline.py PACKAGES.db llm ARGUMENTS...
    offline.py PACKAGES.db openai-to-sqlite ARGUMENTS...

A text gets the embedding that the database of the packages has for it: of a description, or
of a question. For llm that is a model named `packages`, registered as a plugin registers one;
openai-to-sqlite gets it as the answer to its request.
"""

import sqlite3
import struct
import sys

TEXTS = """
SELECT description, embedding FROM packages UNION ALL SELECT question, embedding FROM questions
"""


def read_embeddings(path):
    connection = sqlite3.connect(path)
    embeddings = {
        text: struct.unpack(f"<{len(blob) // 4}f", blob) for text, blob in connection.execute(TEXTS)
    }
    connection.close()
    return embeddings


def run_llm(embeddings, arguments):
    import llm
    from llm.cli import cli
    from llm.plugins import pm

    class Packages(llm.EmbeddingModel):
        model_id = "packages"

        def embed_batch(self, items):
            for item in items:
                yield list(embeddings[item])

    class Plugin:
        @llm.hookimpl
        def register_embedding_models(self, register):
            register(Packages())

    pm.register(Plugin(), "packages")
    cli(arguments, prog_name="llm")


def run_openai_to_sqlite(embeddings, arguments):
    import httpx
    from openai_to_sqlite import cli as tool

    def post(url, json, **options):
        # It takes nothing but 1,536 numbers: four times over, distances are twice as long.
        data = [
            {"index": i, "embedding": 4 * list(embeddings[text])}
            for i, text in enumerate(json["input"])
        ]
        answer = {"data": data, "usage": {"total_tokens": len(data)}}
        return httpx.Response(200, json=answer, request=httpx.Request("POST", url))

    tool.httpx.post = post
    # Counting tokens would fetch a table of them; these texts are short.
    tool.truncate_tokens = lambda text, most: text
    tool.cli(["embeddings", *arguments, "--token", "none"], prog_name="openai-to-sqlite")


def main():
    path, tool, *arguments = sys.argv[1:]
    tools = {"llm": run_llm, "openai-to-sqlite": run_openai_to_sqlite}
    tools[tool](read_embeddings(path), arguments)


if __name__ == "__main__":
    main()
