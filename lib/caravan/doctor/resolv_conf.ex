defmodule Caravan.Doctor.ResolvConf do
  # Effect. What /etc/resolv.conf says (resolv.conf(5)).
  @moduledoc false

  alias Caravan.Doctor.TextFile

  @typedoc "With `:rotate`, there is no first nameserver."
  @type t :: %{
          search: [String.t()],
          ndots: non_neg_integer,
          nameservers: [String.t()],
          rotate: boolean
        }

  @spec read() :: t
  def read do
    lines = with {:ok, lines} <- TextFile.lines("/etc/resolv.conf"), do: lines, else: (_ -> [])
    parse(lines)
  end

  @doc "Returns what the lines of the file say. The last `search` or `domain` and the last `ndots` count."
  @spec parse([String.t()]) :: t
  def parse(lines) do
    none = %{search: [], ndots: 1, nameservers: [], rotate: false}
    Enum.reduce(lines, none, &add(String.split(&1), &2))
  end

  defp add([key | domains], conf) when key in ["search", "domain"], do: %{conf | search: domains}

  defp add(["nameserver", address | _], conf),
    do: %{conf | nameservers: conf.nameservers ++ [address]}

  defp add(["options" | options], conf) do
    rotate = conf.rotate or "rotate" in options
    %{conf | ndots: ndots(options, conf.ndots), rotate: rotate}
  end

  defp add(_words, conf), do: conf

  defp ndots(options, ndots) do
    Enum.reduce(options, ndots, fn option, ndots ->
      case option do
        "ndots:" <> number ->
          with {number, ""} <- Integer.parse(number), do: number, else: (_ -> ndots)

        _ ->
          ndots
      end
    end)
  end
end
