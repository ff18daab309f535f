"""Settings: read once from ``HUILIU_*`` variables and ``.env``; everything has a working default."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PROVIDERS = (
    "smtp_url",
    "aliyun_endpoint",
    "tencent_endpoint",
    "twilio_endpoint",
    "wechat_endpoint",
    "wecom_endpoint",
    "webhook_url",
)
"""Settings that name a provider; an empty one is the sandbox's stand-in."""


class Settings(BaseSettings):
    """Everything that differs between installations. ``HUILIU_HOME`` holds all local state."""

    model_config = SettingsConfigDict(env_prefix="HUILIU_", env_file=".env", extra="ignore", frozen=True)

    home: Path = Path("var")
    database_url: str = ""
    """SQLAlchemy URL; empty means SQLite in ``home/huiliu.db``."""
    warehouse: str = ""
    """Folder or fsspec URL of the Parquet replica; empty means ``home/warehouse``."""
    spark_master: str = ""
    """``spark://host:port``: where rules are evaluated; empty means by DuckDB in the process."""
    secret: str = ""
    """Base64 of 32 random bytes; empty means the file ``home/secret.key`` (made on first use, 0600)."""

    host: str = "127.0.0.1"
    port: int = 8080
    base_url: str = Field(default_factory=lambda known: f"http://127.0.0.1:{known.get('port', 8080)}")
    """Where members' browsers reach the public pages: the start of every tracked link. Unless set, this
    machine at ``port``."""
    processes: int = Field(default=1, ge=1, le=64)
    """Of the web server. Rates of API keys and log-ins are counted in each by itself."""
    threads: int = Field(default=16, ge=1, le=256)
    """Of each of those processes: requests answered at a time. Those at a till share transactions."""

    shop_name: str = "Huiliu Shop"
    shop_url: str = ""
    """The shop's own address: `shop.url` in templates; empty means ``base_url``."""
    shop_timezone: str = "Asia/Shanghai"
    shop_currency: str = "CNY"
    shop_languages: str = Field(default="", pattern=r"^\s*([A-Za-z]{2,3}([_-][A-Za-z]{2,4})?(\s+|$))*$")
    """Languages of messages in the order of preference (``zh_CN en``), for members whose own is not there;
    the first is for members without one. Empty: English first, and the language of the currency."""

    smtp_url: str = ""
    """``smtp://[user:password@]host:port[?tls=none|starttls|ssl&weight=…&connections=…&messages=…&warmup=…]``,
    several separated by spaces; empty means the sandbox."""
    mail_from: str = "shop@example.com"
    bounce_domain: str = ""
    """Domain whose mail comes to us: MAIL FROM becomes ``b+…@`` it, so that a bounce names its message."""
    bounce_mailbox: str = ""
    """``imaps://user:password@host[:port][/folder]`` or ``pop3s://…`` that bounces are fetched from."""
    bounce_listen: str = ""
    """``host:port`` where an SMTP listener takes bounces; empty means none."""
    dkim_keys: str = ""
    """``selector:domain:path of a PEM file``, several separated by spaces; empty means unsigned mail."""
    mx_lookup: bool = False
    """Whether receivers are grouped by their MX hosts (DNS) and not by well-known domains alone."""
    aliyun_endpoint: str = ""
    """Base URL of the Dysmsapi host; empty means the sandbox."""
    aliyun_access_key_id: str = "sandbox-key-id"
    aliyun_access_key_secret: str = "sandbox-key-secret"  # noqa: S105 - the sandbox's own, not a secret
    aliyun_sign_name: str = "回流"
    sms_provider: Literal["aliyun", "tencent", "twilio"] = "aliyun"
    sms_provider_abroad: Literal["", "aliyun", "tencent", "twilio"] = ""
    """Who sends to numbers outside mainland China; empty means the same."""
    sms_prices: str = Field(default="*:0.05", pattern=r"^\s*(([A-Z]{2}|\*):\d+(\.\d+)?(\s+|$))+$")
    """``country:price of a segment`` in the shop's currency, separated by spaces; ``*``: elsewhere."""
    sms_opt_out: str = "拒收请回复R"
    """How marketing texts to mainland China end."""
    sms_opt_out_abroad: str = "Reply STOP to opt out"
    sms_hours: str = Field(default="", pattern=r"^(off|\s*((\w+/)?\+\d{1,7}=\d\d:\d\d-\d\d:\d\d(\s+|$))*)$")
    """``[provider/]+country code=from-to``, separated by spaces: when marketing SMS may arrive, in the
    recipient's time; empty: the law's, kept by real providers only; ``off``: always."""
    tencent_endpoint: str = ""
    """Base URL of Tencent Cloud's SMS host; empty means the sandbox."""
    tencent_secret_id: str = "sandbox-secret-id"  # noqa: S105 - the sandbox's own, not a secret
    tencent_secret_key: str = "sandbox-secret-key"  # noqa: S105 - the sandbox's own, not a secret
    tencent_sdk_app_id: str = "1400000000"
    tencent_region: str = "ap-guangzhou"
    tencent_sign_name: str = "回流"
    twilio_endpoint: str = ""
    """Base URL of Twilio's API; empty means the sandbox."""
    twilio_account_sid: str = "AC00000000000000000000000000000000"
    twilio_auth_token: str = "sandbox-auth-token"  # noqa: S105 - the sandbox's own, not a secret
    twilio_sender: str = "+15005550006"
    """A number (``+1…``), or a messaging service (``MG…``)."""
    wechat_endpoint: str = ""
    """Base URL of the official account API; empty means the sandbox."""
    wechat_appid: str = "wx-sandbox"
    wechat_secret: str = "sandbox-app-secret"  # noqa: S105 - the sandbox's own, not a secret
    wechat_token: str = "sandbox-token"  # noqa: S105 - signs WeChat's callbacks to us
    wechat_aes_key: str = ""
    """The account's EncodingAESKey (43 characters): opens encrypted callbacks; empty: plain ones only."""
    wechat_authorize_endpoint: str = ""
    """Where a member agrees to be bound; empty means WeChat's own page, or the sandbox's."""
    wechat_scope: str = Field(default="snsapi_base", pattern=r"^snsapi_(base|userinfo)$")
    """``snsapi_userinfo`` asks the member, and gives the unionid as well."""
    wecom_endpoint: str = ""
    """Base URL of WeCom's API; empty means the sandbox."""
    wecom_corpid: str = "ww-sandbox"
    wecom_secret: str = "sandbox-wecom-secret"  # noqa: S105 - the sandbox's own, not a secret
    wecom_sender: str = "sandbox-employee"
    """userid of the employee who is asked to confirm the messages to customers."""
    webhook_url: str = ""
    """The shop's own address for messages of the channel ``webhook``; empty means the sandbox."""
    webhook_secret: str = "sandbox-webhook-secret"  # noqa: S105 - the sandbox's own, not a secret
    webhook_allow_private: bool = False
    """Whether ``webhook_url`` may be an address of the own network."""
    double_opt_in: Literal["false", "true", "all"] = "false"
    """Whether a grant for e-mail marketing by a form or the API waits for a click; ``all``: imports too."""
    datacentre_networks: str = ""
    """File of networks, one a line such as ``3.0.0.0/8``: clicks from there are no reader's. Empty: none."""
    sandbox_smtp_port: int = 8025
    sandbox_http_port: int = 8026

    trusted_proxies: int = Field(default=0, ge=0, le=10)
    """How many proxies of yours stand before the console: whose X-Forwarded headers are believed."""
    clock_shift_s: int = 0
    """Seconds added to the clock: a demo or a replay lives in the past. 0 in production."""

    prefect_port: int = 4200
    batch_size: int = Field(default=5000, ge=1, le=50_000)
    """Members decided and written in one transaction of a campaign run."""
    upload_limit_mb: int = 64
    api_rate: str = Field(default="60000/minute", pattern=r"^[1-9][0-9]*/(second|minute|hour)$")
    """Requests that one API key may send to one process."""

    @field_validator("double_opt_in", mode="before")
    @classmethod
    def _as_words(cls, value: object) -> object:
        return {"1": "true", "0": "false", "": "false"}.get(str(value).lower(), str(value).lower())

    @field_validator("shop_timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        ZoneInfo(value)
        return value

    @property
    def url(self) -> str:
        return self.database_url or f"sqlite:///{(self.home / 'huiliu.db').absolute()}"

    @property
    def warehouse_url(self) -> str:
        return self.warehouse or str((self.home / "warehouse").absolute())

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.shop_timezone)

    def sandboxed(self) -> Settings:
        """The same settings with every provider replaced by its stand-in: nothing leaves this machine."""
        return self.model_copy(update=dict.fromkeys(PROVIDERS, ""))

    @property
    def uses_sandbox(self) -> bool:
        """True while any channel still points at the stand-ins on loopback."""
        return not (self.smtp_url and self.sms_is_real and self.wechat_endpoint)

    @property
    def smtp(self) -> str:
        return self.smtp_url or f"smtp://127.0.0.1:{self.sandbox_smtp_port}?tls=none"

    @property
    def aliyun(self) -> str:
        return self.aliyun_endpoint or f"http://127.0.0.1:{self.sandbox_http_port}/aliyun"

    @property
    def sms_providers(self) -> tuple[str, ...]:
        """The providers in use: for mainland China first, for abroad if that is another."""
        return tuple(dict.fromkeys((self.sms_provider, self.sms_provider_abroad or self.sms_provider)))

    @property
    def sms_is_real(self) -> bool:
        """Whether every SMS provider in use is the real one."""
        return all(getattr(self, f"{name}_endpoint") for name in self.sms_providers)

    @property
    def tencent(self) -> str:
        return self.tencent_endpoint or f"http://127.0.0.1:{self.sandbox_http_port}/tencent"

    @property
    def twilio(self) -> str:
        return self.twilio_endpoint or f"http://127.0.0.1:{self.sandbox_http_port}/twilio"

    @property
    def wechat(self) -> str:
        return self.wechat_endpoint or f"http://127.0.0.1:{self.sandbox_http_port}/wechat"

    @property
    def wechat_authorize(self) -> str:
        own = "https://open.weixin.qq.com" if self.wechat_endpoint else self.wechat
        return self.wechat_authorize_endpoint or own

    @property
    def wecom(self) -> str:
        return self.wecom_endpoint or f"http://127.0.0.1:{self.sandbox_http_port}/wecom"

    @property
    def webhook(self) -> str:
        return self.webhook_url or f"http://127.0.0.1:{self.sandbox_http_port}/webhook"


@lru_cache(maxsize=1)
def load() -> Settings:
    """The process's settings, read on the first call only."""
    return Settings()
