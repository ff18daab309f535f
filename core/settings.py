"""Settings: read once from ``HUILIU_*`` variables and ``.env``; everything has a working default."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


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

    base_url: str = "http://127.0.0.1:8080"
    """Where members' browsers reach the public pages: the start of every tracked link."""
    host: str = "127.0.0.1"
    port: int = 8080

    shop_name: str = "Huiliu Shop"
    shop_url: str = ""
    """The shop's own address: `shop.url` in templates; empty means ``base_url``."""
    shop_timezone: str = "Asia/Shanghai"
    shop_currency: str = "CNY"

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
    wechat_endpoint: str = ""
    """Base URL of the official account API; empty means the sandbox."""
    wechat_appid: str = "wx-sandbox"
    wechat_secret: str = "sandbox-app-secret"  # noqa: S105 - the sandbox's own, not a secret
    wechat_token: str = "sandbox-token"  # noqa: S105 - signs WeChat's callbacks to us
    sandbox_smtp_port: int = 8025
    sandbox_http_port: int = 8026

    clock_shift_s: int = 0
    """Seconds added to the clock: a demo or a replay lives in the past. 0 in production."""

    prefect_port: int = 4200
    batch_size: int = Field(default=5000, ge=1, le=50_000)
    """Members decided and written in one transaction of a campaign run."""
    upload_limit_mb: int = 64
    api_rate: str = Field(default="60000/minute", pattern=r"^[1-9][0-9]*/(second|minute|hour)$")
    """Requests that one API key may send to one process."""

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

    @property
    def uses_sandbox(self) -> bool:
        """True while any channel still points at the stand-ins on loopback."""
        return not (self.smtp_url and self.aliyun_endpoint and self.wechat_endpoint)

    @property
    def smtp(self) -> str:
        return self.smtp_url or f"smtp://127.0.0.1:{self.sandbox_smtp_port}?tls=none"

    @property
    def aliyun(self) -> str:
        return self.aliyun_endpoint or f"http://127.0.0.1:{self.sandbox_http_port}/aliyun"

    @property
    def wechat(self) -> str:
        return self.wechat_endpoint or f"http://127.0.0.1:{self.sandbox_http_port}/wechat"


@lru_cache(maxsize=1)
def load() -> Settings:
    """The process's settings, read on the first call only."""
    return Settings()
