defmodule Caravan.Test.Soak.History do
  @moduledoc "What is known of one VM: what its log said so far, and its samples."

  alias Caravan.Test.Soak.Growth
  alias Caravan.Test.Soak.LogCheck
  alias Caravan.Test.Soak.LogFile
  alias Caravan.Test.Soak.Sample

  defstruct log_offset: 0, log_check: %LogCheck{}, samples: []

  @typedoc "`:log_offset` is the number of bytes of the log that were read. Samples are sorted, oldest first."
  @type t :: %__MODULE__{
          log_offset: non_neg_integer,
          log_check: LogCheck.t(),
          samples: Growth.samples()
        }

  @doc "Adds a sample that was taken `age` milliseconds after the start of the VM."
  @spec add_sample(t, age :: non_neg_integer, Sample.t()) :: t
  def add_sample(%__MODULE__{samples: samples} = history, age, sample),
    do: %{history | samples: samples ++ [{age, sample}]}

  @doc "Reads the new lines of the VM's log. Returns the problems in them. See `LogCheck.add_lines/3`."
  @spec read_log(t, Path.t(), LogCheck.changes()) :: {problems :: [String.t()], t}
  def read_log(%__MODULE__{} = history, path, changes) do
    {lines, offset} = LogFile.read(path, history.log_offset)
    {problems, check} = LogCheck.add_lines(history.log_check, lines, changes)
    {problems, %{history | log_offset: offset, log_check: check}}
  end
end
