"""The official SDKs, doing what they are told.

Takes calls as a JSON list and makes one after the other. Prints a line of JSON for
each event of a stream, and one for how each call has ended. Usage:

    sdks.py ANTHROPIC|OPENAI BASE_URL CALLS

A call is {"arguments": {…}, "options": {…}}: what the SDK's method is called with,
and what its client is made with beyond its defaults.
"""

import json
import sys

KEY = "key-of-the-client"


def anthropic_method(base_url, options):
    import anthropic

    client = anthropic.Anthropic(base_url=base_url, api_key=KEY, **options)
    return client.messages.create, anthropic.AnthropicError


def openai_method(base_url, options):
    import openai

    client = openai.OpenAI(base_url=f"{base_url}/v1", api_key=KEY, **options)
    return client.chat.completions.create, openai.OpenAIError


def say(line):
    print(json.dumps(line), flush=True)


def make(method, error_type, arguments):
    try:
        answer = method(**arguments)
        if not arguments.get("stream"):
            say({"answer": answer.model_dump(mode="json")})
            return
        for event in answer:
            say({"event": event.model_dump(mode="json")})
        say({"end": True})
    except error_type as error:
        say(
            {
                "error": {
                    "classes": [known.__name__ for known in type(error).__mro__],
                    "status": getattr(error, "status_code", None),
                    "body": getattr(error, "body", None),
                    "request_id": getattr(error, "request_id", None),
                    "text": str(error),
                }
            }
        )
    except Exception as error:  # Of a library below: a cut stream is one.
        say({"broken": type(error).__name__, "text": str(error)})


def main(sdk, base_url, calls):
    connect = {"anthropic": anthropic_method, "openai": openai_method}[sdk]
    for call in json.loads(calls):
        method, error_type = connect(base_url, call.get("options", {}))
        make(method, error_type, call["arguments"])


if __name__ == "__main__":
    main(*sys.argv[1:])
