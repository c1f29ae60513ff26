"""Names: what senders call providers and models, and which entry of the book they mean, or none.

A name is cleaned of the paths and prefixes that transports add and then looked
up exactly; all that may be missing from the table is a date or version tag at
the end. A version that is not listed is unknown: its neighbour has another price.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.vocabulary import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from otel_cost.core.price.table import Deployment, Model

# --- Providers -------------------------------------------------------------------------------------------------------

# Values of the GenAI conventions (now and formerly) and of the clients that send their own, to ids of the book.
PROVIDERS: Final[Mapping[str, str]] = {
    alias: book
    for book, aliases in (
        ("openai", "openai openai_chat openai_responses open_ai"),
        ("anthropic", "anthropic claude"),
        ("aws", "aws.bedrock aws_bedrock aws bedrock bedrock_converse amazon_bedrock amazon aws.sagemaker"),
        ("azure", "azure azure.ai.openai azure.ai.inference az.ai.openai az.ai.inference azure_openai azureopenai"),
        ("azure", "azure_ai azure_inference azure.openai azure_text microsoft"),
        ("google", "google gcp gcp.gemini gcp.gen_ai gcp.genai gcp.vertex_ai gcp.vertex vertex_ai vertexai vertex"),
        ("google", "gemini google_genai google_gemini google_vertexai google_vertex google_ai googleai"),
        ("google", "google_ai_studio vertex_ai_beta"),
        ("cohere", "cohere cohere_chat"),
        ("deepseek", "deepseek deep_seek"),
        ("groq", "groq"),
        ("watsonx", "ibm.watsonx.ai ibm.watson.ai ibm watsonx watson"),
        ("mistral", "mistral_ai mistral mistralai"),
        ("moonshotai", "moonshot_ai moonshot moonshotai kimi"),
        ("perplexity", "perplexity perplexity_ai perplexityai pplx"),
        ("x-ai", "x_ai xai x.ai grok"),
        ("together", "together together_ai togetherai"),
        ("fireworks", "fireworks fireworks_ai fireworksai"),
        ("openrouter", "openrouter open_router openrouter.ai"),
        ("cerebras", "cerebras"),
        ("github-copilot", "github_copilot copilot"),
        ("novita", "novita novita_ai"),
        ("voyageai", "voyageai voyage voyage_ai"),
        ("zai", "zai z.ai z_ai"),
        ("zhipuai", "zhipuai zhipu zhipu_ai"),
        ("minimax", "minimax minimax_ai"),
        ("cloudflare", "cloudflare workers_ai cloudflare_workers_ai"),
        ("databricks", "databricks mosaic"),
        ("elevenlabs", "elevenlabs eleven_labs"),
        ("meta", "meta meta_llama llama_api"),
    )
    for alias in aliases.split()
}

# Names of frameworks and gateways that say nothing about who answered: the model decides.
UNTOLD: Final = frozenset(
    {
        "_other",
        "agno",
        "ai_gateway",
        "autogen",
        "crewai",
        "custom",
        "dspy",
        "gateway",
        "google_adk",
        "haystack",
        "helicone",
        "instructor",
        "langchain",
        "langgraph",
        "langsmith",
        "litellm",
        "litellm_proxy",
        "llama_index",
        "llamaindex",
        "mastra",
        "openai_compatible",
        "openai_like",
        "openinference",
        "other",
        "portkey",
        "pydantic_ai",
        "semantic_kernel",
        "smolagents",
        "strands",
        "strands_agents",
        "unknown",
        "vercel",
        "vercel_ai",
    }
)

# First-party families by the form of their names; what several sellers host (Llama, Qwen …) is none of them.
_FAMILIES: Final = tuple(
    (re.compile(pattern), provider)
    for pattern, provider in (
        (r"arn:aws[\w-]*:bedrock:", "aws"),
        (r"(?:us|eu|apac|jp|au|in|ca|sa|us-gov|global)\.\w+\.", "aws"),
        (
            r"(?:anthropic|amazon|meta|mistral|cohere|ai21|deepseek|openai|qwen|nvidia|google|writer|zai)\.(?!com)",
            "aws",
        ),
        (r"(?:moonshotai|minimax)\.(?!com)", "aws"),
        (r"claude-", "anthropic"),
        (r"gpt-oss", ""),
        (r"(?:gpt-|chatgpt-|o[134](?:-|$)|ft:|text-embedding-(?:3-|ada)|davinci-|babbage-|whisper-1$|tts-1)", "openai"),
        (r"(?:codex-mini|omni-moderation|text-moderation|computer-use)", "openai"),
        (r"(?:gemini-|text-embedding-00|learnlm)", "google"),
        (r"deepseek-(?:chat|reasoner|flash|v4-(?:pro|flash))$", "deepseek"),
        (r"grok-", "x-ai"),
        (r"(?:mistral|ministral|codestral|magistral|devstral|pixtral|voxtral|open-mi[sx]tral)-", "mistral"),
        (r"(?:command-|embed-(?:v\d|english|multilingual)|rerank-|c4ai-)", "cohere"),
        (r"(?:kimi-|moonshot-v)", "moonshotai"),
        (r"sonar(?:-|$)", "perplexity"),
        (r"voyage-", "voyageai"),
        (r"glm-", "zai"),
        (r"minimax-", "minimax"),
        (r"accounts/fireworks/", "fireworks"),
        (r"@cf/", "cloudflare"),
    )
)


def provider_id(name: str | None, known: Mapping[str, str]) -> str | None:
    """The book's id of a provider as sent; "" where the name does not tell who answered; None where nobody knows it.

    `known` maps further names (the book's own ids, the user's aliases); it wins.
    """
    if name is None:
        return ""
    key = name.strip().lower()
    for spelling in (key, key.replace("-", "_"), key.replace(" ", "_")):
        if spelling in known:
            return known[spelling]
        if spelling in PROVIDERS:
            return PROVIDERS[spelling]
        if spelling in UNTOLD or not spelling:
            return ""
    # `openai.responses`, `google.vertex.chat`, `azure-openai.chat`: client libraries add which API they called.
    head, dot, _ = key.rpartition(".")
    return provider_id(head, known) if dot else None


# --- Models ----------------------------------------------------------------------------------------------------------

_DATE: Final = r"20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])|20\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_DATED: Final = re.compile(rf"(.+?)[-@:]({_DATE})$")
# What may follow a stem: a date, the tag of a release, and the word that a release had before it was one.
_TAG: Final = re.compile(
    rf"(?:[-@](?:v\d+|\d{{3}}))?(?:-(?:preview|exp|experimental))?"
    rf"(?:[-@:](?:{_DATE}|latest|\d{{4}}|\d\d-\d\d|\d\d-20\d\d|\d{{3}}|default|001))?"
)
_CLAUDE: Final = re.compile(r"claude-(\d+(?:[.-]\d)?)-(opus|sonnet|haiku|fable|mythos)(?=$|[-@:])")
_ARN: Final = re.compile(r"arn:aws[\w-]*:bedrock:[^:]*:[^:]*:(?P<kind>[\w-]+)/(?P<name>.+)$")
_GEO: Final = re.compile(r"(?:(us-gov|us|eu|apac|jp|au|in|ca|sa|global)\.)?((?:[a-z0-9]+)\.[a-z].*)$")
_REGION: Final = re.compile(r"(?:us|eu|ap|ca|sa|me|af|il|mx)(?:-gov)?-[a-z]+-\d/")
_AWS_VERSION: Final = re.compile(r"(?:-v\d+)?(?::\d+)?(?::\d+k|:mm)?$")
_AZURE_TUNED: Final = re.compile(r"(gpt-[\w.-]+?)\.ft-.+$")
_ROUTING: Final = re.compile(r":(?:nitro|floor|exacto|beta|thinking)$")  # OpenRouter: how to route, not what to buy
_VENDORS: Final = {"meta-llama": "", "mistralai": "mistral", "moonshotai": "moonshotai", "cohere": "cohere"}


@dataclass(frozen=True, slots=True)
class Found:
    """Where in the book a call's price stands. `provider` serves it, `owner` lists the price."""

    provider: str
    owner: str
    model: str
    inferred: bool = False  # the provider told is not known to sell it: who bills is a conclusion


class Shelf:
    """The names of one provider's models."""

    def __init__(self, provider: str, models: Iterable[Model]) -> None:
        self._names: dict[str, str] = {}
        self._stems: dict[str, str] = {}
        self._tagged: set[str] = set()  # the stems that a tag may follow, not only a date
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        models = [model for model in models if not model.gone]
        for model in models:
            self._names[model.id.lower()] = model.id
        for model in models:
            for name in model.names:
                self._names.setdefault(name.lower(), model.id)
            for stem in (*model.stems, *model.names, model.id):
                self._stems.setdefault(stem.lower(), model.id)
            self._tagged.update(stem.lower() for stem in model.stems)
            self._patterns += [(re.compile(pattern, re.IGNORECASE), model.id) for pattern in model.patterns]
        if provider == "aws":
            self._add_bedrock(models)

    def _add_bedrock(self, models: Iterable[Model]) -> None:
        """Bedrock's ids without their dates and versions; one that two models share names neither."""
        self._bedrock: dict[str, str | None] = {}
        rows: dict[str, object] = {}
        for model in models:
            for name in (model.id, *model.names):
                key = _bedrock_key(name.lower())
                known = self._bedrock.setdefault(key, model.id)
                if rows.setdefault(key, [row.prices for row in model.rows]) != [row.prices for row in model.rows]:
                    self._bedrock[key] = None if name == model.id else known

    def find(self, name: str) -> str | None:
        """The model that a cleaned, lower-case name means here."""
        for spelling in _spellings(name):
            found = self._names.get(spelling) or self._match(spelling)
            if found is None and (dated := _DATED.match(spelling)):
                found = self._names.get(dated[1]) or self._stems.get(dated[1])
            if found is None:
                found = self._tag(spelling)
            if found is not None:
                return found
        return None

    def _match(self, name: str) -> str | None:
        return next((model for pattern, model in self._patterns if pattern.fullmatch(name)), None)

    def _tag(self, name: str) -> str | None:
        """The longest stem that leaves nothing but a tag."""
        for cut in range(len(name), 0, -1):
            stem = name[:cut]
            if stem not in self._stems or (cut < len(name) and name[cut] not in "-@:"):
                continue
            rest = name[cut:]
            # `-latest` of a numbered model is that model; of an unnumbered one it is whatever is newest.
            if rest == "-latest" and re.search(r"\d", stem):
                return self._stems[stem]
            if stem in self._tagged and _TAG.fullmatch(rest):
                return self._stems[stem]
            return None
        return None

    def find_bedrock(self, name: str) -> str | None:
        """The model that a Bedrock id, profile or ARN means: `global.` has its own list, other places the regional."""
        arn = _ARN.match(name)
        if arn:
            if arn["kind"] not in {"foundation-model", "inference-profile"}:
                return None  # application profiles, imported and provisioned models hide what they are
            name = arn["name"]
        for prefix in ("bedrock/", "converse/", "invoke/", "converse_like/"):
            name = name.removeprefix(prefix)
        name = _REGION.sub("", name, count=1) if _REGION.match(name) else name
        parts = _GEO.match(name)
        if parts is None or _CLAUDE_LIKE.match(name):
            vendor = next((vendor for stem, vendor in _BEDROCK_VENDORS if name.startswith(stem)), None)
            if vendor is None:
                return None
            geo, bare = None, f"{vendor}.{name}"
        else:
            geo, bare = parts[1], parts[2]
        for spelling in _spellings(bare):
            key = _bedrock_key(spelling)
            for where in (f"{geo}." if geo else "", "global." if geo == "global" else "regional.", ""):
                found = self._bedrock.get(where + key)
                if found is not None and not (geo == "global" and found.startswith("regional.")):
                    return found
        return None


_CLAUDE_LIKE: Final = re.compile(r"(?:claude|gpt|nova|titan|llama)[\w-]*-\d")
_BEDROCK_VENDORS: Final = (("claude", "anthropic"), ("gpt", "openai"), ("nova", "amazon"), ("titan", "amazon"))


def _bedrock_key(name: str) -> str:
    bare = _AWS_VERSION.sub("", name, count=1)
    dated = _DATED.match(bare)
    return dated[1] if dated else bare


def _spellings(name: str) -> Iterator[str]:
    """The name and the ways in which the same name is also written; each is looked up exactly."""
    yield name
    compact = re.sub(r"([-@])(20\d\d)(\d\d)(\d\d)(?=$|[-:])", r"-\2-\3-\4", name)
    if compact != name:
        yield compact
    if name.startswith("claude-"):
        turned = _CLAUDE.sub(r"claude-\2-\1", name)
        if turned != name:
            yield turned
            yield re.sub(r"(?<=\d)\.(?=\d)", "-", turned)
    dashed = re.sub(r"(?<=\d)\.(?=\d)", "-", name)
    if dashed != name:
        yield dashed
    dotted = re.sub(r"(?<=[a-z-]\d)-(?=\d(?:$|[-@:]))", ".", name)
    if dotted != name:
        yield dotted


class Names:
    """All shelves of a book and the user's own names."""

    def __init__(
        self,
        models: Mapping[str, Iterable[Model]],
        fallback: Mapping[str, tuple[str, ...]],
        provider_names: Mapping[str, str],
        deployments: Iterable[Deployment],
    ) -> None:
        self._shelves = {provider: Shelf(provider, listed) for provider, listed in models.items()}
        self._fallback = fallback
        self._known = {provider: provider for provider in models} | {
            name.lower(): provider for name, provider in provider_names.items()
        }
        self._deployments = {
            (
                one.tenant,
                one.provider and (provider_id(one.provider, self._known) or one.provider),
                one.name.lower(),
            ): one
            for one in deployments
        }

    def provider(self, name: str) -> str | None:
        """See `provider_id`, with the names that this book's files add."""
        return provider_id(name, self._known)

    def find(
        self, provider: str | None, requested: str | None, response: str | None, tenant: str = ""
    ) -> Found | Reason:
        """Where the price of what was served stands, or why nobody can tell.

        The response's model was served; the request's is asked only where there is
        no other, or where it alone carries the place (a Bedrock profile).
        """
        served = response or requested
        if not served or not served.strip():
            return Reason.MISSING_MODEL
        book_id = provider_id(provider, self._known)
        if book_id is None:
            return Reason.UNKNOWN_PROVIDER
        if book_id and book_id not in self._shelves:
            return Reason.UNKNOWN_PROVIDER
        found = self._one(book_id, served, tenant)
        if isinstance(found, Found) and found.provider == "aws" and requested and requested != served:
            # Through Bedrock a response names the bare model; on which terms it was bought stands in the request.
            asked = self._one("aws", requested, tenant)
            if isinstance(asked, Found) and _same_bedrock(asked.model, found.model):
                return asked
        return found

    def _one(self, book_id: str, model: str, tenant: str) -> Found | Reason:
        name = model.strip().lower()
        mine = self._deployment(book_id, name, tenant)
        if mine is not None:
            owner = provider_id(mine.provider, self._known) or book_id
            found = self._listed(owner, mine.model.strip().lower()) or (
                self._infer(mine.model.strip().lower()) if not owner else None
            )
            return found if isinstance(found, Found) else Reason.UNKNOWN_MODEL
        if not book_id:
            return self._infer(name)
        found = self._listed(book_id, name)
        if found is not None:
            return found
        if book_id == "openai":
            # Its client library is everybody's: the model says whom it talked to.
            elsewhere = self._infer(name)
            if isinstance(elsewhere, Found) and elsewhere.provider != "openai":
                return Found(elsewhere.provider, elsewhere.owner, elsewhere.model, inferred=True)
        return Reason.UNKNOWN_MODEL

    def _deployment(self, book_id: str, name: str, tenant: str) -> Deployment | None:
        for whose in (tenant, None):
            for provider in (book_id, None):
                mine = self._deployments.get((whose, provider, name))
                if mine is not None:
                    return mine
        return None

    def _listed(self, book_id: str, name: str) -> Found | None:
        shelf = self._shelves.get(book_id)
        if shelf is None:
            return None
        for spelling in self._cleaned(book_id, name):
            model = shelf.find_bedrock(spelling) if book_id == "aws" else None
            model = model or shelf.find(spelling)
            if model is not None:
                return Found(book_id, book_id, model)
        for owner in self._fallback.get(book_id, ()):
            for spelling in self._cleaned(book_id, name):
                model = self._shelves[owner].find(spelling) if owner in self._shelves else None
                if model is not None:
                    return Found(book_id, owner, model)
        return None

    def _infer(self, name: str) -> Found | Reason:
        """Who sells a model of this name, where the name alone says it."""
        head, slash, rest = name.partition("/")
        if slash and rest:
            vendor = provider_id(_VENDORS.get(head, head), self._known)
            if vendor and vendor in self._shelves:
                return self._listed(vendor, name) or self._listed(vendor, rest) or Reason.UNKNOWN_MODEL
        if head in {"models", "publishers", "projects", "tunedmodels"}:
            return self._listed("google", name) or Reason.UNKNOWN_MODEL
        for family, provider in _FAMILIES:
            if family.match(name):
                if not provider:
                    return Reason.UNKNOWN_PROVIDER
                return self._listed(provider, name) or Reason.UNKNOWN_MODEL
        return Reason.UNKNOWN_PROVIDER

    def _cleaned(self, book_id: str, name: str) -> Iterator[str]:
        """The name as sent, then without what transports put around it."""
        yield name
        path = re.fullmatch(r"(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/([^/]+)/)?models/([^/]+)", name)
        if path:
            yield path[2]
            name = path[2]
        registry = re.fullmatch(r"azureml://registries/[^/]+/models/([^/]+)(?:/versions/[^/]+)?", name)
        if registry:
            yield registry[1]
            name = registry[1]
        head, slash, rest = name.partition("/")
        while slash and rest and (provider_id(head, self._known) == book_id or head in _VENDORS or book_id in _HOSTS):
            if provider_id(head, self._known) is None and head not in _VENDORS:
                break
            yield rest
            name = rest
            head, slash, rest = name.partition("/")
        routed = _ROUTING.sub("", name)
        if routed != name:
            yield routed
            name = routed
        if book_id in {"openai", "azure"}:
            yield from self._tuned(name)
            if name.startswith("gpt-35"):
                yield "gpt-3.5" + name.removeprefix("gpt-35")

    def _tuned(self, name: str) -> Iterator[str]:
        """`ft:BASE:organisation:suffix:id` and Azure's `BASE.ft-id`, as the list writes them: `ft:BASE`."""
        azure = _AZURE_TUNED.match(name)
        if azure:
            yield f"ft:{azure[1]}"
        elif name.startswith("ft:"):
            yield "ft:" + name.split(":")[1]


_HOSTS: Final = frozenset({"aws", "azure", "google"})  # they sell other vendors' models under `vendor/model` too


def _same_bedrock(left: str, right: str) -> bool:
    strip = re.compile(r"^(?:global|regional|us|eu|apac|jp|au)\.")
    return _bedrock_key(strip.sub("", left)) == _bedrock_key(strip.sub("", right))
